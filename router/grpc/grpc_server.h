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
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "router/core/call.h"
#include "router/core/request_context.h"
#include "router/core/thread_pool.h"
#include "router/grpc/inference_service.h"

namespace paceline::router {

class GrpcServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    uint16_t port = 0;                                     // 0: a free one
    std::shared_ptr<grpc::ServerCredentials> credentials;  // null: without TLS
    int max_message_bytes = 4 << 20;
    int max_metadata_bytes = 16 << 10;
    int max_streams_per_connection = 100;
    bool reflection = true;  // needs a key like everything else when keys are set
    // Further services on the same port, for tests and single-port set-ups; must outlive the
    // server.
    std::vector<grpc::Service*> more_services;
  };

  // `service` and `executor` must outlive the server.
  GrpcServer(Options options, Service* service, Executor* executor, Authenticate authenticate);
  // Stops at once.
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Binds and serves. At most once.
  absl::Status Start();
  // REQUIRES: started.
  uint16_t port() const { return static_cast<uint16_t>(port_); }
  // Accepts no more, lets calls end within `grace`, then ends them with UNAVAILABLE.
  void Stop(std::chrono::milliseconds grace);

 private:
  void FollowReadiness();

  const Options options_;
  Service* const service_;
  const Authenticate authenticate_;
  InferenceService inference_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;

  std::thread health_thread_;
  std::mutex mutex_;  // guards stopping_
  std::condition_variable wake_;
  bool stopping_ = false;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_GRPC_SERVER_H_
