// The public gRPC endpoint of a router: paceline.v1.Inference, grpc.health.v1 and reflection on one
// address. Owned by the process; Start and Stop from one thread.
#ifndef PACELINE_ROUTER_GRPC_GRPC_SERVER_H_
#define PACELINE_ROUTER_GRPC_GRPC_SERVER_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "absl/status/status.h"
#include "grpcpp/server.h"
#include "router/core/call.h"
#include "router/core/request_context.h"
#include "router/core/thread_pool.h"
#include "router/grpc/inference_service.h"
#include "router/grpc/listener.h"

namespace paceline::router {

class GrpcServer {
 public:
  // `service` and `executor` must outlive the server.
  GrpcServer(ListenerOptions options,
             Service* service,
             Executor* executor,
             Authenticate authenticate,
             OnGrpcAnswered on_answered = nullptr);
  // Stops at once.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Binds and serves. At most once.
  absl::Status Start();
  // REQUIRES: started.
  uint16_t port() const { return listener_->port(); }
  // Accepts no more, lets calls end within `grace`, then ends them with UNAVAILABLE.
  void Stop(std::chrono::milliseconds grace);

 private:
  void FollowReadiness();

  const ListenerOptions options_;
  Service* const service_;
  const Authenticate authenticate_;
  InferenceService inference_;
  std::unique_ptr<Listener> listener_;

  std::thread health_thread_;
  std::mutex mutex_;  // guards stopping_
  std::condition_variable wake_;
  bool stopping_ = false;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_GRPC_SERVER_H_
