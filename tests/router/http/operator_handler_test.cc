#include "router/http/operator_handler.h"

#include <string>

#include "gtest/gtest.h"
#include "router/http/http_server.h"
#include "tests/router/http/raw_client.h"

namespace paceline::router {
namespace {

StatusSnapshot MakeStatus() {
  StatusSnapshot status{.queued_requests = 7, .generation_tokens_per_second = 12.34};
  v1::ReplicaInfo& replica = status.replicas.emplace_back();
  replica.set_id("r<1>");
  replica.set_state("ready");
  replica.set_free_blocks(3);
  replica.set_total_blocks(9);
  return status;
}

TEST(StatusPageTest, ShowsFiguresAndEscapesTexts) {
  const std::string page = StatusPageHtml(MakeStatus(), "1.2.3");
  EXPECT_NE(page.find("<b>7</b>requests queued"), std::string::npos);
  EXPECT_NE(page.find("<b>12.3</b>generated tokens/s"), std::string::npos);
  EXPECT_NE(page.find("r&lt;1&gt;"), std::string::npos);
  EXPECT_EQ(page.find("r<1>"), std::string::npos);
  EXPECT_NE(page.find("class=\"ready\""), std::string::npos);
  EXPECT_NE(page.find("3 / 9"), std::string::npos);
  EXPECT_NE(page.find("http-equiv=\"refresh\""), std::string::npos);
}

TEST(OperatorHandlerTest, ServesMetricsAndThePage) {
  OperatorHandler handler({.metrics_text = [] { return std::string("a_total 1\n"); },
                           .status = MakeStatus,
                           .version = "1"});
  HttpServer server({.num_threads = 1}, &handler);
  ASSERT_TRUE(server.Start().ok());
  const RawResponse metrics = RoundTrip(server.port(), GetRequest("/metrics"));
  EXPECT_EQ(metrics.body, "a_total 1\n");
  EXPECT_EQ(metrics.headers.at("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  EXPECT_EQ(RoundTrip(server.port(), GetRequest("/")).headers.at("content-type"),
            "text/html; charset=utf-8");
  EXPECT_EQ(RoundTrip(server.port(), GetRequest("/health")).status, 200);
  EXPECT_EQ(RoundTrip(server.port(), GetRequest("/v1/models")).status, 404);
  EXPECT_EQ(RoundTrip(server.port(), PostRequest("/metrics", "")).status, 405);
}

}  // namespace
}  // namespace paceline::router
