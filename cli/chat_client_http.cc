#include <chrono>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/asio.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "cli/chat_client.h"
#include "cli/client_tls.h"
#include "nlohmann/json.hpp"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

std::string RequestBody(const std::vector<ChatTurn>& turns, const ChatParams& params) {
  nlohmann::ordered_json body = {{"messages", nlohmann::ordered_json::array()}, {"stream", true}};
  if (!params.model.empty()) body["model"] = params.model;
  for (const ChatTurn& turn : turns) {
    body["messages"].push_back({{"role", turn.role}, {"content", turn.content}});
  }
  if (params.max_tokens > 0) body["max_tokens"] = params.max_tokens;
  body["temperature"] = params.temperature;
  body["min_p"] = params.min_p;
  return body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

// The message of an OpenAI error object, or a general one.
std::string ErrorMessage(const std::string& body, unsigned status) {
  const auto json = nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("error") && json["error"].is_object() &&
      json["error"].contains("message") && json["error"]["message"].is_string()) {
    return json["error"]["message"].get<std::string>();
  }
  return absl::StrCat("the server answered with HTTP status ", status);
}

// Takes complete "data: …" events off the front of `pending`; the text they add goes to `on_text`.
absl::Status TakeEvents(std::string& pending,
                        std::string& answer,
                        bool& done,
                        const std::function<void(const std::string&)>& on_text) {
  for (size_t end = pending.find("\n\n"); end != std::string::npos; end = pending.find("\n\n")) {
    const std::string event = pending.substr(0, end);
    pending.erase(0, end + 2);
    if (event.rfind("data: ", 0) != 0) continue;
    if (event == "data: [DONE]") {
      done = true;
      continue;
    }
    const auto json = nlohmann::json::parse(event.substr(6), nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) return absl::InternalError("the server sent an event that is no JSON");
    if (json.contains("error")) return absl::UnavailableError(ErrorMessage(event.substr(6), 200));
    if (!json.contains("choices") || json["choices"].empty()) continue;
    const auto& delta = json["choices"][0]["delta"];
    if (!delta.contains("content") || !delta["content"].is_string()) continue;
    const std::string text = delta["content"].get<std::string>();
    answer += text;
    if (!text.empty()) on_text(text);
  }
  return absl::OkStatus();
}

class HttpChatClient final : public ChatClient {
 public:
  // `tls`: null for none.
  HttpChatClient(ChatServer server, std::unique_ptr<asio::ssl::context> tls)
      : host_(std::move(server.host)),
        port_(std::move(server.port)),
        tls_(std::move(tls)),
        tls_server_name_(std::move(server.tls_server_name)) {}

  absl::StatusOr<std::string> Ask(const std::vector<ChatTurn>& turns,
                                  const ChatParams& params,
                                  const std::function<void(const std::string&)>& on_text,
                                  const std::atomic<bool>& stop) override {
    asio::io_context io;
    if (tls_ == nullptr) {
      beast::tcp_stream stream(io);
      RETURN_IF_ERROR(Connect(io, stream));
      return AskOver(io, stream, turns, params, on_text, stop);
    }
    TlsClientStream stream(io, *tls_);
    ExpectServer(tls_server_name_.empty() ? host_ : tls_server_name_, stream);
    RETURN_IF_ERROR(Connect(io, stream.next_layer()));
    beast::error_code error;
    stream.handshake(asio::ssl::stream_base::client, error);
    if (error) return absl::UnavailableError(ExplainHandshake(error, stream));
    return AskOver(io, stream, turns, params, on_text, stop);
  }

 private:
  absl::Status Connect(asio::io_context& io, beast::tcp_stream& stream) {
    beast::error_code error;
    asio::ip::tcp::resolver resolver(io);
    const auto addresses = resolver.resolve(host_, port_, error);
    if (!error) stream.connect(addresses, error);
    if (!error) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat("no server at ", host_, ":", port_, " (", error.message(), ")"));
  }

  template <typename Stream>
  absl::StatusOr<std::string> AskOver(asio::io_context& io,
                                      Stream& stream,
                                      const std::vector<ChatTurn>& turns,
                                      const ChatParams& params,
                                      const std::function<void(const std::string&)>& on_text,
                                      const std::atomic<bool>& stop) {
    beast::error_code error;
    http::request<http::string_body> request(http::verb::post, "/v1/chat/completions", 11);
    request.set(http::field::host, absl::StrCat(host_, ":", port_));
    request.set(http::field::content_type, "application/json");
    if (!params.api_key.empty()) {
      request.set(http::field::authorization, absl::StrCat("Bearer ", params.api_key));
    }
    request.body() = RequestBody(turns, params);
    request.prepare_payload();
    http::write(stream, request, error);
    if (error) return absl::UnavailableError(absl::StrCat("sending failed: ", error.message()));

    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.body_limit(std::numeric_limits<uint64_t>::max());  // none refuses every length
    http::read_header(stream, buffer, parser, error);
    if (error) return absl::UnavailableError(absl::StrCat("no answer: ", error.message()));

    std::string pending;
    std::string answer;
    bool done = false;
    const bool is_stream = parser.get().result() == http::status::ok;
    while (!parser.is_done()) {
      char bytes[8192];
      parser.get().body().data = bytes;
      parser.get().body().size = sizeof(bytes);
      bool read = false;
      http::async_read_some(stream, buffer, parser, [&](beast::error_code e, size_t) {
        error = e;
        read = true;
      });
      while (!read) {
        io.restart();
        io.run_for(std::chrono::milliseconds(20));
        if (stop.load() && !read) {
          beast::get_lowest_layer(stream).cancel();
          io.restart();
          io.run();
          return answer;
        }
      }
      if (error == http::error::need_buffer) error = {};
      if (error) return absl::UnavailableError(absl::StrCat("stream broke off: ", error.message()));
      pending.append(bytes, sizeof(bytes) - parser.get().body().size);
      if (is_stream) {
        if (absl::Status status = TakeEvents(pending, answer, done, on_text); !status.ok()) {
          return status;
        }
      }
    }
    if (!is_stream) {
      return absl::FailedPreconditionError(ErrorMessage(pending, parser.get().result_int()));
    }
    if (!done) return absl::UnavailableError("the stream ended before the answer did");
    return answer;
  }

  const std::string host_;
  const std::string port_;
  const std::unique_ptr<asio::ssl::context> tls_;  // null: none
  const std::string tls_server_name_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatClient>> MakeHttpChatClient(ChatServer server) {
  std::unique_ptr<asio::ssl::context> tls;
  if (server.has_tls) {
    ASSIGN_OR_RETURN(tls, MakeClientContext(server.tls));
  }
  return std::make_unique<HttpChatClient>(std::move(server), std::move(tls));
}

}  // namespace paceline::cli
