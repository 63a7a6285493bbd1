#include "router/grpc/admin_service.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <string_view>
#include <utility>

#include "proto/support/log.h"
#include "router/grpc/call_context.h"

namespace paceline::router {
namespace {

// A call that is answered once, by Finish or when the last reference goes.
class PendingCall {
 public:
  explicit PendingCall(grpc::CallbackServerContext* context)
      : context_(context), reactor_(context->DefaultReactor()) {}
  ~PendingCall() {
    if (!is_finished_) Finish(absl::UnavailableError("The server is shutting down"));
  }
  PendingCall(const PendingCall&) = delete;
  PendingCall& operator=(const PendingCall&) = delete;

  void Finish(const absl::Status& status) {
    Finish(ApiError{.status = status.code(), .message = std::string(status.message())});
  }
  void Finish(const ApiError& error) {
    is_finished_ = true;
    const bool is_ok = error.status == absl::StatusCode::kOk;
    reactor_->Finish(is_ok ? grpc::Status::OK : FinishStatus(error, *context_));
  }
  grpc::ServerUnaryReactor* reactor() const { return reactor_; }

 private:
  grpc::CallbackServerContext* const context_;
  grpc::ServerUnaryReactor* const reactor_;
  bool is_finished_ = false;
};

// Lets `answer` finish the call, if the caller has the key.
template <class Answer>
grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context,
                              const Authenticate& authenticate,
                              const Answer& answer) {
  auto call = std::make_shared<PendingCall>(context);
  grpc::ServerUnaryReactor* reactor = call->reactor();
  const auto tenant = TenantOfCall(authenticate, *context);
  if (const auto* refused = std::get_if<ApiError>(&tenant)) {
    call->Finish(*refused);
  } else {
    answer(std::move(call));
  }
  return reactor;
}

using CallPtr = std::shared_ptr<PendingCall>;

void AdaptersAreNotBuilt(const CallPtr& call) {
  call->Finish(ApiError{.status = absl::StatusCode::kUnimplemented,
                        .message = "Adapters are not supported yet",
                        .code = "not_supported"});
}

}  // namespace

AdminService::AdminService(Options options) : options_(std::move(options)) {}

grpc::ServerUnaryReactor* AdminService::ListReplicas(grpc::CallbackServerContext* context,
                                                     const v1::ListReplicasRequest*,
                                                     v1::ListReplicasResponse* response) {
  return Run(context, options_.authenticate, [&](const CallPtr& call) {
    for (v1::ReplicaInfo& replica : options_.list_replicas()) {
      *response->add_replicas() = std::move(replica);
    }
    call->Finish(absl::OkStatus());
  });
}

grpc::ServerUnaryReactor* AdminService::DrainReplica(grpc::CallbackServerContext* context,
                                                     const v1::DrainReplicaRequest* request,
                                                     v1::DrainReplicaResponse*) {
  return Run(context, options_.authenticate, [&](CallPtr call) {
    options_.drain_replica(
        request->id(), !request->undo(), [call = std::move(call)](const absl::Status& status) {
          call->Finish(status);
        });
  });
}

grpc::ServerUnaryReactor* AdminService::FlushPrefixCache(grpc::CallbackServerContext* context,
                                                         const v1::FlushPrefixCacheRequest* request,
                                                         v1::FlushPrefixCacheResponse* response) {
  return Run(context, options_.authenticate, [&](CallPtr call) {
    options_.flush_prefix_cache(
        request->model(), [call = std::move(call), response](const absl::StatusOr<int32_t>& count) {
          if (count.ok()) response->set_replicas(*count);
          call->Finish(count.status());
        });
  });
}

grpc::ServerUnaryReactor* AdminService::SetLogLevel(grpc::CallbackServerContext* context,
                                                    const v1::SetLogLevelRequest* request,
                                                    v1::SetLogLevelResponse*) {
  return Run(context, options_.authenticate, [&](const CallPtr& call) {
    constexpr std::string_view kNames[] = {"trace", "debug", "info", "warn", "error", "off"};
    if (std::find(std::begin(kNames), std::end(kNames), request->level()) == std::end(kNames)) {
      return call->Finish(
          InvalidParam("level", "level must be trace, debug, info, warn, error or off"));
    }
    spdlog::set_level(spdlog::level::from_str(request->level()));
    call->Finish(absl::OkStatus());
  });
}

grpc::ServerUnaryReactor* AdminService::LoadAdapter(grpc::CallbackServerContext* context,
                                                    const v1::LoadAdapterRequest*,
                                                    v1::LoadAdapterResponse*) {
  return Run(context, options_.authenticate, AdaptersAreNotBuilt);
}

grpc::ServerUnaryReactor* AdminService::UnloadAdapter(grpc::CallbackServerContext* context,
                                                      const v1::UnloadAdapterRequest*,
                                                      v1::UnloadAdapterResponse*) {
  return Run(context, options_.authenticate, AdaptersAreNotBuilt);
}

}  // namespace paceline::router
