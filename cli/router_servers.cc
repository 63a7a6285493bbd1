#include "cli/router_servers.h"

#include <thread>
#include <utility>

#include "cli/version.h"
#include "proto/support/clock.h"
#include "proto/support/status_macros.h"
#include "router/core/request_context.h"

namespace paceline::cli {
namespace {

router::Authenticate MakeAuthenticate(const router::ApiKeys& keys) {
  if (!keys.required()) return nullptr;
  return [&keys](std::string_view key) -> std::variant<std::string, router::ApiError> {
    if (auto tenant = keys.Authenticate(key)) return *std::move(tenant);
    return router::UnauthenticatedError();
  };
}

}  // namespace

absl::StatusOr<std::unique_ptr<RouterServers>> RouterServers::Start(const RouterOptions& options,
                                                                    router::RouterCore& core) {
  auto servers = std::unique_ptr<RouterServers>(new RouterServers(core));
  servers->started_ns_ = SteadyClock::Get().NowNs();
  absl::StatusOr<router::ApiKeys> keys = router::ApiKeys::Parse(options.api_keys);
  if (!keys.ok()) {
    return absl::InvalidArgumentError("--api-key: " + std::string(keys.status().message()));
  }
  servers->keys_ = *std::move(keys);
  const router::Authenticate authenticate = MakeAuthenticate(servers->keys_);

  servers->api_handler_ = std::make_unique<router::ApiHandler>(
      router::ApiHandler::Options{.service = &core.service(),
                                  .executor = &core.text_threads(),
                                  .authenticate = authenticate,
                                  .parse = {.allow_unknown_fields = options.allow_unknown_fields},
                                  .version = kVersion,
                                  .on_answered = nullptr});
  servers->operator_handler_ = std::make_unique<router::OperatorHandler>(
      router::OperatorHandler::Options{.metrics_text = [&core] { return core.metrics().Text(); },
                                       .status = [raw = servers.get()] { return raw->Status(); },
                                       .authenticate = nullptr,
                                       .version = kVersion});

  router::HttpServer::Options http;
  http.host = options.host;
  http.port = static_cast<uint16_t>(options.port);
  servers->http_ = std::make_unique<router::HttpServer>(http, servers->api_handler_.get());
  http.port = static_cast<uint16_t>(options.operator_port);
  http.num_threads = 1;
  servers->operator_ = std::make_unique<router::HttpServer>(http, servers->operator_handler_.get());
  servers->grpc_ = std::make_unique<router::GrpcServer>(
      router::GrpcServer::Options{.host = options.host,
                                  .port = static_cast<uint16_t>(options.grpc_port)},
      &core.service(),
      &core.text_threads(),
      authenticate);
  RETURN_IF_ERROR(servers->operator_->Start());
  RETURN_IF_ERROR(servers->grpc_->Start());
  RETURN_IF_ERROR(servers->http_->Start());
  return servers;
}

router::StatusSnapshot RouterServers::Status() {
  router::StatusSnapshot status;
  status.replicas = core_.dispatcher().Replicas();
  const router::Dispatcher::Activity activity = core_.dispatcher().RecentActivity();
  status.queued_requests = activity.queued_requests;
  status.queued_tokens = activity.queued_tokens;
  status.running_requests = activity.running_requests;
  status.prompt_tokens_per_second = activity.prompt_tokens_per_second;
  status.generation_tokens_per_second = activity.generation_tokens_per_second;
  status.uptime_seconds = (SteadyClock::Get().NowNs() - started_ns_) / 1'000'000'000;
  return status;
}

void RouterServers::Stop(std::chrono::milliseconds grace) {
  DrainRouterCore(core_, grace);
  // Every call has had its terminal event; what is left is to send it.
  constexpr std::chrono::milliseconds kFlush(1000);
  std::thread http([this] { http_->Stop(kFlush); });
  grpc_->Stop(kFlush);
  http.join();
  operator_->Stop(std::chrono::milliseconds(0));
}

RouterServers::~RouterServers() = default;

}  // namespace paceline::cli
