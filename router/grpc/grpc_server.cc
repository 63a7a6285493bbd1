#include "router/grpc/grpc_server.h"

#include <utility>

#include "grpcpp/health_check_service_interface.h"
#include "proto/support/status_macros.h"

namespace paceline::router {
namespace {

constexpr auto kReadinessInterval = std::chrono::milliseconds(100);
constexpr auto kLastWords = std::chrono::seconds(1);

}  // namespace

GrpcServer::GrpcServer(ListenerOptions options,
                       Service* service,
                       Executor* executor,
                       Authenticate authenticate,
                       OnGrpcAnswered on_answered)
    : options_(std::move(options)),
      service_(service),
      authenticate_(std::move(authenticate)),
      inference_(service, executor, authenticate_, std::move(on_answered)) {}

GrpcServer::~GrpcServer() { Stop(std::chrono::milliseconds(0)); }

absl::Status GrpcServer::Start() {
  grpc::EnableDefaultHealthCheckService(true);
  ASSIGN_OR_RETURN(listener_, Listener::Start(options_, {&inference_}, authenticate_));
  FollowReadiness();
  return absl::OkStatus();
}

// grpc.health.v1 says what Service::Ready says, at most 100 ms later.
void GrpcServer::FollowReadiness() {
  const auto publish = [this](bool ready) {
    grpc::HealthCheckServiceInterface* health = listener_->server().GetHealthCheckService();
    health->SetServingStatus("", ready);
    health->SetServingStatus("paceline.v1.Inference", ready);
  };
  bool ready = service_->Ready();
  publish(ready);
  health_thread_ = std::thread([this, publish, ready]() mutable {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, kReadinessInterval, [this] { return stopping_; })) {
      if (const bool now = service_->Ready(); now != ready) publish(ready = now);
    }
    publish(false);
  });
}

void GrpcServer::Stop(std::chrono::milliseconds grace) {
  if (listener_ == nullptr) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  health_thread_.join();

  // Refuses new calls at once; cancels what is left at the very end.
  std::thread shutdown([this, deadline = std::chrono::system_clock::now() + grace + kLastWords] {
    listener_->Shutdown(deadline);
  });
  if (!inference_.live_calls().WaitUntilNone(grace)) {
    inference_.live_calls().EndAll(ApiError{.status = absl::StatusCode::kUnavailable,
                                            .message = "The server is shutting down",
                                            .code = "draining"});
  }
  shutdown.join();
  listener_ = nullptr;
}

}  // namespace paceline::router
