// The public HTTP routes: OpenAI's, tokenising, models, health. One table names every route, its
// method and whether it needs a key; what is not in the table does not exist. Owned by the process;
// thread-safe.
#ifndef PACELINE_ROUTER_HTTP_API_HANDLER_H_
#define PACELINE_ROUTER_HTTP_API_HANDLER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "router/core/call.h"
#include "router/core/request_context.h"
#include "router/core/thread_pool.h"
#include "router/http/message.h"
#include "router/openai/requests.h"

namespace paceline::router {

// The JSON answer to `error`, with Retry-After for 429 and 503.
HttpResponse ErrorResponse(const ApiError& error);
// The same for a request that is broken as HTTP.
HttpResponse StatusResponse(int status);

class ApiHandler final : public HttpHandler {
 public:
  struct Options {
    Service* service = nullptr;    // outlives the handler
    Executor* executor = nullptr;  // for parsing long bodies and tokenising; outlives the handler
    Authenticate authenticate;     // null: no keys
    ParseOptions parse;
    std::string version;
    std::function<void(const HttpAccess&)> on_answered;  // may be null; any thread
  };

  struct RouteInfo {
    std::string_view method;
    std::string_view path;
    bool needs_key;
  };

  explicit ApiHandler(Options options);

  // Every route there is.
  static std::vector<RouteInfo> Routes();

  std::optional<HttpResponse> Admit(HttpRequest& request) override;
  void Handle(HttpRequest request, std::shared_ptr<Exchange> exchange) override;
  HttpResponse Refuse(int status) override { return StatusResponse(status); }
  void OnAnswered(const HttpAccess& access) override;

 private:
  void Answer(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  void AnswerInference(const HttpRequest& request, const std::shared_ptr<Exchange>& exchange);
  HttpResponse AnswerAtOnce(const HttpRequest& request);
  HttpResponse Tokenize(const HttpRequest& request);
  HttpResponse Detokenize(const HttpRequest& request);
  HttpResponse Model(std::string_view path_id);

  const Options options_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_API_HANDLER_H_
