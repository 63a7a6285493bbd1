#include <chrono>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "boost/asio.hpp"
#include "boost/beast/core.hpp"
#include "boost/beast/http.hpp"
#include "cli/chat_client.h"
#include "nlohmann/json.hpp"

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
  if (params.temperature >= 0) body["temperature"] = params.temperature;
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
  HttpChatClient(std::string host, std::string port)
      : host_(std::move(host)), port_(std::move(port)) {}

  absl::StatusOr<std::string> Ask(const std::vector<ChatTurn>& turns,
                                  const ChatParams& params,
                                  const std::function<void(const std::string&)>& on_text,
                                  const std::atomic<bool>& stop) override {
    asio::io_context io;
    beast::tcp_stream stream(io);
    beast::error_code error;
    asio::ip::tcp::resolver resolver(io);
    const auto addresses = resolver.resolve(host_, port_, error);
    if (!error) stream.connect(addresses, error);
    if (error) {
      return absl::UnavailableError(
          absl::StrCat("no server at ", host_, ":", port_, " (", error.message(), ")"));
    }
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
          stream.cancel();
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

 private:
  const std::string host_;
  const std::string port_;
};

}  // namespace

std::unique_ptr<ChatClient> MakeHttpChatClient(std::string host, std::string port) {
  return std::make_unique<HttpChatClient>(std::move(host), std::move(port));
}

}  // namespace paceline::cli
