// HTTP requests and responses as plain values, and the two interfaces between connections and what
// answers on them. No Boost in here.
#ifndef PACELINE_ROUTER_HTTP_MESSAGE_H_
#define PACELINE_ROUTER_HTTP_MESSAGE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace paceline::router {

struct HttpRequest {
  std::string method;
  std::string target;  // as it came: neither decoded nor normalised
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;
  bool is_http_1_0 = false;
  bool keep_alive = true;
  bool has_body = false;  // announced by the head
  bool expects_continue = false;
  int64_t arrival_ns = 0;  // steady clock, first byte of the head

  // Set by HttpHandler::Admit for Handle.
  int route = -1;
  std::string_view route_label;  // bounded set, for metrics; static storage
  std::string tenant;
  std::string request_id;

  size_t CountOf(std::string_view lower_case_name) const;
  // The header's value; nullopt when it is absent or occurs more than once.
  std::optional<std::string_view> Header(std::string_view lower_case_name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  // besides the usual ones
  bool close = false;                                        // close the connection when sent
};

// What an exchange tells the one who answers. Called from the connection's threads, without locks.
class ExchangeObserver {
 public:
  virtual ~ExchangeObserver() = default;
  // The client went away, or reads so slowly that it was given up: nothing can be sent any more.
  virtual void OnDisconnect() = 0;
  // Some of what waited was sent.
  virtual void OnProgress() = 0;
  // The server's time to stop is over: end the answer now.
  virtual void OnServerStop() = 0;
};

// The answer to one request: either Respond, or StartStream, Write…, Finish(Failed). Implemented by
// the connection. Any thread; never blocks. After a disconnect everything is dropped.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual void Respond(HttpResponse response) = 0;
  // `head.body` is ignored.
  virtual void StartStream(HttpResponse head) = 0;
  virtual void Write(std::string_view bytes) = 0;
  virtual void Finish() = 0;
  // Instead of Finish when the stream ends badly: closes the connection. `status` is what the
  // answer would have had, for OnAnswered.
  virtual void FinishFailed(int status) = 0;
  // Bytes that the kernel has not taken yet.
  virtual int64_t UnsentBytes() const = 0;
  // Call before the first of the above, at most once. Held until the answer is complete.
  virtual void SetObserver(std::shared_ptr<ExchangeObserver> observer) = 0;
};

struct HttpAccess {
  std::string_view route;         // HttpRequest::route_label; empty: none matched
  int status = 0;                 // 499: the client went away first
  std::string_view tenant_class;  // static storage
  int64_t duration_ns = 0;
};

// Answers requests. Thread-safe; must not block.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Sees the head before the body is read. A response refuses the request.
  virtual std::optional<HttpResponse> Admit(HttpRequest& request) = 0;
  // Answers now or later through `exchange`; must end it.
  virtual void Handle(HttpRequest request, std::shared_ptr<Exchange> exchange) = 0;
  // The error response for a request that is broken or too slow.
  virtual HttpResponse Refuse(int status) = 0;
  // An answer was sent or given up.
  virtual void OnAnswered(const HttpAccess& access) {}
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_MESSAGE_H_
