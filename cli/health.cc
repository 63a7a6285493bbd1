// `paceline health [URL]`: asks a running process whether it is well, for container health checks.
#include <chrono>
#include <cstdio>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/asio.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "cli/client_tls.h"
#include "cli/commands.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

struct Url {
  bool has_tls = false;
  std::string host;
  std::string port;
  std::string path;
};

absl::StatusOr<Url> ParseUrl(const std::string& url) {
  const bool has_tls = absl::StartsWith(url, "https://");
  if (!has_tls && !absl::StartsWith(url, "http://")) {
    return absl::InvalidArgumentError("URL: must start with http:// or https://");
  }
  const std::string rest = url.substr(has_tls ? 8 : 7);
  const size_t slash = rest.find('/');
  const std::string authority = rest.substr(0, slash);
  const size_t colon = authority.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == authority.size()) {
    return absl::InvalidArgumentError("URL: must be http://host:port/path");
  }
  Url parts{.has_tls = has_tls,
            .host = authority.substr(0, colon),
            .port = authority.substr(colon + 1),
            .path = slash == std::string::npos ? "/health" : rest.substr(slash)};
  if (parts.host.front() == '[' && parts.host.back() == ']') {  // IPv6
    parts.host = parts.host.substr(1, parts.host.size() - 2);
  }
  return parts;
}

// GETs `url` over `stream`, which `shake_hands` makes ready once it is connected. The status of the
// answer, or why there is none in time.
template <typename Stream, typename ShakeHands>
absl::StatusOr<unsigned> Get(const Url& url,
                             std::chrono::seconds timeout,
                             asio::io_context& io,
                             Stream& stream,
                             ShakeHands shake_hands) {
  beast::error_code error;
  asio::ip::tcp::resolver resolver(io);
  beast::flat_buffer buffer;
  http::request<http::empty_body> request(http::verb::get, url.path, 11);
  request.set(http::field::host, absl::StrCat(url.host, ":", url.port));
  http::response<http::string_body> response;
  const auto addresses = resolver.resolve(url.host, url.port, error);
  if (error) return absl::UnavailableError(absl::StrCat("no answer: ", error.message()));
  absl::Status status = absl::UnavailableError("no answer: no end of it");
  const auto end = [&](beast::error_code e) {
    status =
        e ? absl::UnavailableError(absl::StrCat("no answer: ", e.message())) : absl::OkStatus();
  };
  const auto exchange = [&](absl::Status ready) {
    if (!ready.ok()) return void(status = std::move(ready));
    http::async_write(stream, request, [&](beast::error_code e, size_t) {
      if (e) return end(e);
      http::async_read(stream, buffer, response, [&](beast::error_code e, size_t) { end(e); });
    });
  };
  beast::get_lowest_layer(stream).expires_after(timeout);
  beast::get_lowest_layer(stream).async_connect(
      addresses, [&](beast::error_code e, const auto&) { e ? end(e) : shake_hands(exchange); });
  io.run();
  if (!status.ok()) return status;
  return response.result_int();
}

absl::StatusOr<unsigned> Ask(const Url& url, const HealthOptions& options) {
  const std::chrono::seconds timeout(options.timeout_seconds);
  asio::io_context io;
  if (!url.has_tls) {
    beast::tcp_stream stream(io);
    return Get(url, timeout, io, stream, [](auto ready) { ready(absl::OkStatus()); });
  }
  ASSIGN_OR_RETURN(const auto context, MakeClientContext(options.tls));
  TlsClientStream stream(io, *context);
  ExpectServer(options.tls_server_name.empty() ? url.host : options.tls_server_name, stream);
  return Get(url, timeout, io, stream, [&stream](auto ready) {
    stream.async_handshake(asio::ssl::stream_base::client, [&stream, ready](beast::error_code e) {
      ready(e ? absl::UnavailableError(ExplainHandshake(e, stream)) : absl::OkStatus());
    });
  });
}

}  // namespace

int RunHealth(const HealthOptions& options) {
  const absl::StatusOr<Url> url = ParseUrl(options.url);
  if (!url.ok()) return Fail(url.status());
  const absl::StatusOr<unsigned> status = Ask(*url, options);
  if (!status.ok()) return Fail(status.status());
  if (*status != 200) return Fail(absl::UnavailableError(absl::StrCat("status ", *status)));
  std::puts("ok");
  return 0;
}

}  // namespace paceline::cli
