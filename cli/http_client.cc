#include "cli/http_client.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "boost/asio.hpp"
#include "boost/asio/ssl.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "boost/beast/ssl.hpp"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace ssl = boost::asio::ssl;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kMaxBodyBytes = 16 << 20;
constexpr std::chrono::milliseconds kSlice(100);  // how late Stop may be noticed

// One request's operations, one after another on the caller's thread.
class Talk {
 public:
  Talk(const HttpUrl& url, int64_t timeout_ms, const std::atomic<bool>& stopped)
      : url_(url), timeout_(timeout_ms), stopped_(stopped) {
    Restart();
  }

  asio::io_context& io() { return io_; }
  // The time-out counts anew.
  void Restart() { deadline_ = Clock::now() + timeout_; }

  // Starts an operation and waits for its end; `close` makes it end early.
  template <typename Start, typename Close>
  absl::Status Await(const char* what, const Start& start, const Close& close) {
    std::optional<beast::error_code> result;
    start([&result](beast::error_code error, const auto&...) { result = error; });
    absl::Status early;
    while (!result.has_value()) {
      io_.restart();
      io_.run_for(kSlice);
      if (result.has_value()) break;
      if (stopped_) early = absl::CancelledError("stopped");
      if (Clock::now() >= deadline_) early = absl::DeadlineExceededError(Note(what, "too slow"));
      if (early.ok()) continue;
      close();
      io_.restart();
      io_.run();
      return early;
    }
    if (!*result) return absl::OkStatus();
    return absl::UnavailableError(Note(what, result->message()));
  }

  absl::Status Connect(beast::tcp_stream& stream) {
    asio::ip::tcp::resolver resolver(io_);
    asio::ip::tcp::resolver::results_type addresses;
    RETURN_IF_ERROR(Await(
        "name look-up",
        [&](auto done) {
          resolver.async_resolve(url_.host, url_.port, [&addresses, done](auto error, auto found) {
            addresses = std::move(found);
            done(error);
          });
        },
        [&] { resolver.cancel(); }));
    return Await(
        "connecting",
        [&](auto done) { stream.async_connect(addresses, done); },
        [&] { stream.close(); });
  }

  template <typename Stream>
  absl::StatusOr<HttpAnswer> Exchange(Stream& stream,
                                      const HttpClient::Request& request,
                                      const HttpClient::OnBody& on_body) {
    const auto close = [&stream] { beast::get_lowest_layer(stream).close(); };
    http::request<http::string_body> message(
        http::string_to_verb(request.method), request.target, 11);
    message.set(http::field::host, url_.Authority());
    message.set(http::field::connection, "close");
    for (const auto& [name, value] : request.headers) message.set(name, value);
    message.body() = request.body;
    message.prepare_payload();
    RETURN_IF_ERROR(Await(
        "sending", [&](auto done) { http::async_write(stream, message, done); }, close));

    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(on_body ? UINT64_MAX : kMaxBodyBytes);
    RETURN_IF_ERROR(Await(
        "the answer",
        [&](auto done) { http::async_read_header(stream, buffer, parser, done); },
        close));
    HttpAnswer answer{.status = parser.get().result_int()};
    const auto retry_after = parser.get()[http::field::retry_after];
    if (!absl::SimpleAtoi(absl::string_view(retry_after.data(), retry_after.size()),
                          &answer.retry_after_s)) {
      answer.retry_after_s = 0;  // none, or a date
    }
    const bool is_stream = on_body && answer.status == 200;
    while (!parser.is_done()) {
      if (is_stream) Restart();
      char bytes[16384];
      parser.get().body().data = bytes;
      parser.get().body().size = sizeof(bytes);
      RETURN_IF_ERROR(Await(
          "the answer",
          [&](auto done) {
            http::async_read_some(
                stream, buffer, parser, [done](beast::error_code error, size_t n) {
                  done(error == http::error::need_buffer ? beast::error_code() : error);
                });
          },
          close));
      const std::string_view read(bytes, sizeof(bytes) - parser.get().body().size);
      if (is_stream) {
        if (!on_body(read)) break;
      } else {
        answer.body.append(read);
        if (answer.body.size() > kMaxBodyBytes) {
          return absl::UnavailableError("the answer is too long");
        }
      }
    }
    close();
    return answer;
  }

 private:
  static std::string Note(const char* what, const std::string& problem) {
    return absl::StrCat(what, ": ", problem);
  }

  const HttpUrl& url_;
  const std::chrono::milliseconds timeout_;
  const std::atomic<bool>& stopped_;
  Clock::time_point deadline_;
  asio::io_context io_;
};

absl::Status Read(const char* what, const beast::error_code& error) {
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", error.message()));
}

absl::Status SetUp(const TlsFiles& files, ssl::context& context) {
  beast::error_code error;
  context.set_options(ssl::context::default_workarounds | ssl::context::no_tlsv1 |
                      ssl::context::no_tlsv1_1);
  context.set_verify_mode(ssl::verify_peer);
  if (files.ca.empty()) {
    context.set_default_verify_paths(error);
  } else {
    context.load_verify_file(files.ca, error);
  }
  RETURN_IF_ERROR(Read("the file of trusted certificates", error));
  if (files.certificate.empty()) return absl::OkStatus();
  context.use_certificate_chain_file(files.certificate, error);
  RETURN_IF_ERROR(Read("the client's certificate", error));
  context.use_private_key_file(files.key, ssl::context::pem, error);
  return Read("the client's key", error);
}

}  // namespace

std::string HttpUrl::Authority() const {
  const std::string name = absl::StrContains(host, ':') ? absl::StrCat("[", host, "]") : host;
  return port == (is_tls ? "443" : "80") ? name : absl::StrCat(name, ":", port);
}

absl::StatusOr<HttpUrl> ParseHttpUrl(std::string_view url) {
  absl::string_view rest(url.data(), url.size());
  HttpUrl parts;
  if (absl::ConsumePrefix(&rest, "https://")) {
    parts.is_tls = true;
  } else if (!absl::ConsumePrefix(&rest, "http://")) {
    return absl::InvalidArgumentError("a URL must start with http:// or https://");
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  absl::string_view authority = rest.substr(0, slash);
  parts.target = slash == rest.size() ? "/" : std::string(rest.substr(slash));
  parts.port = parts.is_tls ? "443" : "80";
  const size_t colon = authority.rfind(':');
  const bool has_port =
      colon != absl::string_view::npos && !absl::StrContains(authority.substr(colon), "]");
  if (has_port) {
    int32_t number = 0;
    if (!absl::SimpleAtoi(authority.substr(colon + 1), &number) || number < 1 || number > 65535) {
      return absl::InvalidArgumentError("the URL's port is not within 1 to 65535");
    }
    parts.port = absl::StrCat(number);
    authority = authority.substr(0, colon);
  }
  if (authority.size() > 2 && authority.front() == '[' && authority.back() == ']') {
    authority = authority.substr(1, authority.size() - 2);
  } else if (absl::StrContains(authority, ':')) {
    return absl::InvalidArgumentError("an IPv6 address in a URL needs brackets");
  }
  const bool is_plain = std::all_of(rest.begin(), rest.end(), [](char c) {
    return absl::ascii_isgraph(static_cast<unsigned char>(c)) && c != '#';
  });
  if (authority.empty() || absl::StrContains(authority, "@") || !is_plain) {
    return absl::InvalidArgumentError("the URL is not of the form http://host:port/path");
  }
  parts.host = std::string(authority);
  return parts;
}

absl::StatusOr<HttpAnswer> HttpClient::Send(const Request& request, const OnBody& on_body) const {
  Talk talk(url_, request.timeout_ms, stopped_);
  if (stopped_) return absl::CancelledError("stopped");
  if (!url_.is_tls) {
    beast::tcp_stream stream(talk.io());
    RETURN_IF_ERROR(talk.Connect(stream));
    return talk.Exchange(stream, request, on_body);
  }
  ssl::context context(ssl::context::tls_client);
  RETURN_IF_ERROR(SetUp(tls_, context));
  beast::ssl_stream<beast::tcp_stream> stream(talk.io(), context);
  stream.set_verify_callback(ssl::host_name_verification(url_.host));
  beast::error_code is_name;
  asio::ip::make_address(url_.host, is_name);
  if (is_name) SSL_set_tlsext_host_name(stream.native_handle(), url_.host.c_str());
  RETURN_IF_ERROR(talk.Connect(beast::get_lowest_layer(stream)));
  RETURN_IF_ERROR(talk.Await(
      "TLS",
      [&](auto done) { stream.async_handshake(ssl::stream_base::client, done); },
      [&] { beast::get_lowest_layer(stream).close(); }));
  return talk.Exchange(stream, request, on_body);
}

}  // namespace paceline::cli
