// The operator port's routes: metrics for Prometheus, probes, and a status page for people. Owned
// by the process; thread-safe.
#ifndef PACELINE_ROUTER_HTTP_OPERATOR_HANDLER_H_
#define PACELINE_ROUTER_HTTP_OPERATOR_HANDLER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/paceline/v1/admin.pb.h"
#include "router/http/message.h"

namespace paceline::router {

// What the status page shows.
struct StatusSnapshot {
  std::vector<v1::ReplicaInfo> replicas;
  int64_t queued_requests = 0;
  int64_t queued_tokens = 0;
  int64_t running_requests = 0;
  double prompt_tokens_per_second = 0;
  double generation_tokens_per_second = 0;
  int64_t uptime_seconds = 0;
};

// The page, complete, refreshing itself.
std::string StatusPageHtml(const StatusSnapshot& status, const std::string& version);

class OperatorHandler final : public HttpHandler {
 public:
  struct Options {
    std::function<std::string()> metrics_text;  // Prometheus text format; any thread
    std::function<StatusSnapshot()> status;     // any thread
    std::function<bool()> ready;                // any thread; null: always
    std::string version;
  };

  explicit OperatorHandler(Options options);

  std::optional<HttpResponse> Admit(HttpRequest& request) override;
  void Handle(HttpRequest request, std::shared_ptr<Exchange> exchange) override;
  HttpResponse Refuse(int status) override;

 private:
  const Options options_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_HTTP_OPERATOR_HANDLER_H_
