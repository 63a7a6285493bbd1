#include "router/grpc/admin_service.h"

#include <optional>
#include <utility>

#include "proto/support/log.h"
#include "router/grpc/call_context.h"

namespace paceline::router {

AdminService::AdminService(Options options) : options_(std::move(options)) {}

// `answer` returns nullopt or an error; it only runs for who has the key.
template <class Answer>
grpc::ServerUnaryReactor* AdminService::Run(grpc::CallbackServerContext* context,
                                            const Answer& answer) {
  const auto tenant = TenantOfCall(options_.authenticate, *context);
  std::optional<ApiError> error;
  if (const auto* refused = std::get_if<ApiError>(&tenant)) {
    error = *refused;
  } else {
    error = answer();
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(error ? FinishStatus(*error, *context) : grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListReplicas(grpc::CallbackServerContext* context,
                                                     const v1::ListReplicasRequest*,
                                                     v1::ListReplicasResponse* response) {
  return Run(context, [&]() -> std::optional<ApiError> {
    if (!options_.list_replicas) return std::nullopt;
    for (v1::ReplicaInfo& replica : options_.list_replicas()) {
      *response->add_replicas() = std::move(replica);
    }
    return std::nullopt;
  });
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(grpc::CallbackServerContext* context,
                                                    const v1::SetLogLevelRequest* request,
                                                    v1::SetLogLevelResponse*) {
  return Run(context, [&]() -> std::optional<ApiError> {
    constexpr std::string_view kNames[] = {"trace", "debug", "info", "warn", "error", "off"};
    for (const std::string_view name : kNames) {
      if (request->level() != name) continue;
      spdlog::set_level(spdlog::level::from_str(request->level()));
      return std::nullopt;
    }
    return InvalidParam("level", "level must be trace, debug, info, warn, error or off");
  });
}

grpc::ServerUnaryReactor* AdminService::NotBuilt(grpc::CallbackServerContext* context) {
  return Run(context, []() -> std::optional<ApiError> {
    return ApiError{.status = absl::StatusCode::kUnimplemented,
                    .message = "Not supported yet",
                    .code = "not_supported"};
  });
}

grpc::ServerUnaryReactor* AdminService::DrainReplica(grpc::CallbackServerContext* context,
                                                     const v1::DrainReplicaRequest*,
                                                     v1::DrainReplicaResponse*) {
  return NotBuilt(context);
}

grpc::ServerUnaryReactor* AdminService::LoadAdapter(grpc::CallbackServerContext* context,
                                                    const v1::LoadAdapterRequest*,
                                                    v1::LoadAdapterResponse*) {
  return NotBuilt(context);
}

grpc::ServerUnaryReactor* AdminService::UnloadAdapter(grpc::CallbackServerContext* context,
                                                      const v1::UnloadAdapterRequest*,
                                                      v1::UnloadAdapterResponse*) {
  return NotBuilt(context);
}

grpc::ServerUnaryReactor* AdminService::FlushPrefixCache(grpc::CallbackServerContext* context,
                                                         const v1::FlushPrefixCacheRequest*,
                                                         v1::FlushPrefixCacheResponse*) {
  return NotBuilt(context);
}

}  // namespace paceline::router
