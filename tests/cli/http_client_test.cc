#include "cli/http_client.h"

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/fakes/http_stub.h"

namespace paceline::cli {
namespace {

using router::HttpRequest;
using router::HttpResponse;

TEST(HttpUrlTest, HasItsParts) {
  const auto url = ParseHttpUrl("https://collector.example:4318/v1/traces?x=1");
  ASSERT_TRUE(url.ok());
  EXPECT_TRUE(url->is_tls);
  EXPECT_EQ(url->host, "collector.example");
  EXPECT_EQ(url->port, "4318");
  EXPECT_EQ(url->target, "/v1/traces?x=1");
  EXPECT_EQ(url->Authority(), "collector.example:4318");
  EXPECT_EQ(ParseHttpUrl("http://host")->target, "/");
  EXPECT_EQ(ParseHttpUrl("http://host")->port, "80");
  EXPECT_EQ(ParseHttpUrl("https://host/x")->port, "443");
  EXPECT_EQ(ParseHttpUrl("https://host/x")->Authority(), "host");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:8080/x")->host, "::1");
  EXPECT_EQ(ParseHttpUrl("http://[::1]:8080/x")->Authority(), "[::1]:8080");
  EXPECT_EQ(ParseHttpUrl("http://[::1]/x")->port, "80");
}

TEST(HttpUrlTest, RefusesWhatIsNone) {
  for (const char* bad : {"",
                          "host:80",
                          "ftp://host",
                          "http://",
                          "http:///x",
                          "http://host:0/",
                          "http://host:65536/",
                          "http://host:x/",
                          "http://::1:80/",
                          "http://user:secret@host/",
                          "http://host/a b",
                          "http://host/a\r\nX: y",
                          "http://host/#part"}) {
    EXPECT_EQ(ParseHttpUrl(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

HttpClient ClientOf(int port) {
  return HttpClient(*ParseHttpUrl(absl::StrCat("http://127.0.0.1:", port)));
}

TEST(HttpClientTest, SendsAndReceives) {
  const HttpStub server([](const HttpRequest& request, size_t) {
    return HttpResponse{
        .status = 429, .body = "you said " + request.body, .headers = {{"Retry-After", "7"}}};
  });
  const auto answer = ClientOf(server.port())
                          .Send({.method = "POST",
                                 .target = "/a?b=c",
                                 .headers = {{"Authorization", "Bearer t"}, {"X-One", "1"}},
                                 .body = std::string(100'000, 'x')});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 429U);
  EXPECT_EQ(answer->retry_after_s, 7);
  EXPECT_EQ(answer->body, "you said " + std::string(100'000, 'x'));
  const HttpRequest request = server.requests().at(0);
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.target, "/a?b=c");
  EXPECT_EQ(request.Header("authorization"), "Bearer t");
  EXPECT_EQ(request.Header("x-one"), "1");
  EXPECT_EQ(request.Header("host"), absl::StrCat("127.0.0.1:", server.port()));
}

TEST(HttpClientTest, ABodyComesInPiecesAndMayBeEnough) {
  const HttpStub server(
      [](const HttpRequest&, size_t) { return HttpResponse{.body = std::string(1 << 20, 'x')}; });
  size_t seen = 0;
  int pieces = 0;
  const auto all = ClientOf(server.port()).Send({.target = "/"}, [&](std::string_view bytes) {
    seen += bytes.size();
    return ++pieces > 0;
  });
  EXPECT_TRUE(all.ok());
  EXPECT_EQ(seen, size_t{1} << 20);
  EXPECT_GT(pieces, 1);
  EXPECT_EQ(all->body, "");
  pieces = 0;
  EXPECT_TRUE(ClientOf(server.port())
                  .Send({.target = "/"},
                        [&](std::string_view) {
                          ++pieces;
                          return false;
                        })
                  .ok());
  EXPECT_EQ(pieces, 1);
}

TEST(HttpClientTest, ARefusalIsAnAnswerAlsoToWhoWantsPieces) {
  const HttpStub server(
      [](const HttpRequest&, size_t) { return HttpResponse{.status = 403, .body = "no"}; });
  const auto answer = ClientOf(server.port()).Send({.target = "/"}, [](std::string_view) {
    ADD_FAILURE();
    return false;
  });
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->status, 403U);
  EXPECT_EQ(answer->body, "no");
}

TEST(HttpClientTest, NobodyThereIsUnavailable) {
  int port = 0;
  {
    const HttpStub server([](const HttpRequest&, size_t) { return HttpResponse{}; });
    port = server.port();
  }
  EXPECT_EQ(ClientOf(port).Send({.target = "/"}).status().code(), absl::StatusCode::kUnavailable);
}

TEST(HttpClientTest, ASilentServerCostsTheTimeoutOnly) {
  const HttpStub server(
      [](const HttpRequest&, size_t) -> std::optional<HttpResponse> { return std::nullopt; });
  EXPECT_EQ(ClientOf(server.port()).Send({.target = "/", .timeout_ms = 50}).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(HttpClientTest, StopEndsWhatRunsAndWhatComes) {
  const HttpStub server(
      [](const HttpRequest&, size_t) -> std::optional<HttpResponse> { return std::nullopt; });
  HttpClient client(*ParseHttpUrl(absl::StrCat("http://127.0.0.1:", server.port())));
  absl::Status status;
  std::thread thread(
      [&] { status = client.Send({.target = "/", .timeout_ms = 600'000}).status(); });
  EXPECT_TRUE(server.WaitForRequests(1));
  client.Stop();
  thread.join();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(client.Send({.target = "/"}).status().code(), absl::StatusCode::kCancelled);
}

TEST(HttpClientTest, AServerWithoutTlsIsNotTalkedToInPlain) {
  const HttpStub server([](const HttpRequest&, size_t) { return HttpResponse{}; });
  const HttpClient client(*ParseHttpUrl(absl::StrCat("https://127.0.0.1:", server.port())));
  EXPECT_EQ(client.Send({.target = "/"}).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(server.requests().empty());
}

TEST(HttpClientTest, AMissingFileOfCertificatesIsNamed) {
  const HttpClient client(*ParseHttpUrl("https://127.0.0.1:1"), {.ca = "/nonexistent/ca.pem"});
  EXPECT_EQ(client.Send({.target = "/"}).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace paceline::cli
