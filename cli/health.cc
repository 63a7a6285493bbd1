// `paceline health [URL]`: asks a running process whether it is well, for container health checks.
#include <chrono>
#include <cstdio>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/asio.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "cli/commands.h"

namespace paceline::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

struct Url {
  std::string host;
  std::string port;
  std::string path;
};

absl::StatusOr<Url> ParseUrl(const std::string& url) {
  if (!absl::StartsWith(url, "http://")) {
    return absl::InvalidArgumentError("URL: must start with http://");
  }
  const std::string rest = url.substr(7);
  const size_t slash = rest.find('/');
  const std::string authority = rest.substr(0, slash);
  const size_t colon = authority.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == authority.size()) {
    return absl::InvalidArgumentError("URL: must be http://host:port/path");
  }
  Url parts{.host = authority.substr(0, colon),
            .port = authority.substr(colon + 1),
            .path = slash == std::string::npos ? "/health" : rest.substr(slash)};
  if (parts.host.front() == '[' && parts.host.back() == ']') {  // IPv6
    parts.host = parts.host.substr(1, parts.host.size() - 2);
  }
  return parts;
}

// The status of the answer to GET `url`; 0 and `error` when there is none in time.
unsigned Get(const Url& url, std::chrono::seconds timeout, beast::error_code& error) {
  asio::io_context io;
  asio::ip::tcp::resolver resolver(io);
  beast::tcp_stream stream(io);
  beast::flat_buffer buffer;
  http::request<http::empty_body> request(http::verb::get, url.path, 11);
  request.set(http::field::host, absl::StrCat(url.host, ":", url.port));
  http::response<http::string_body> response;
  const auto addresses = resolver.resolve(url.host, url.port, error);
  if (error) return 0;
  bool done = false;
  const auto end = [&](beast::error_code e) {
    error = e;
    done = true;
  };
  stream.expires_after(timeout);
  stream.async_connect(addresses, [&](beast::error_code e, const auto&) {
    if (e) return end(e);
    http::async_write(stream, request, [&](beast::error_code e, size_t) {
      if (e) return end(e);
      http::async_read(stream, buffer, response, [&](beast::error_code e, size_t) { end(e); });
    });
  });
  io.run();
  if (!done && !error) error = beast::error::timeout;
  return error ? 0 : response.result_int();
}

}  // namespace

int RunHealth(const HealthOptions& options) {
  const absl::StatusOr<Url> url = ParseUrl(options.url);
  if (!url.ok()) return Fail(url.status());
  beast::error_code error;
  const unsigned status = Get(*url, std::chrono::seconds(options.timeout_seconds), error);
  if (status == 0) {
    return Fail(absl::UnavailableError(absl::StrCat("no answer: ", error.message())));
  }
  if (status != 200) return Fail(absl::UnavailableError(absl::StrCat("status ", status)));
  std::puts("ok");
  return 0;
}

}  // namespace paceline::cli
