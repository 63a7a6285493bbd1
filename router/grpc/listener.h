// What every gRPC port of a router has in common: address, limits, keep-alive, and reflection that
// asks for the key. Stateless.
#ifndef PACELINE_ROUTER_GRPC_LISTENER_H_
#define PACELINE_ROUTER_GRPC_LISTENER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "proto/support/grpc_acceptor.h"
#include "router/core/request_context.h"

namespace paceline::router {

struct ListenerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0: a free one
  int max_message_bytes = 4 << 20;
  int max_metadata_bytes = 16 << 10;
  int max_streams_per_connection = 100;
  std::shared_ptr<grpc::ServerCredentials> credentials;  // null: no TLS
};

// A gRPC server and its port. Owned by who made it; any thread, but one for Shutdown.
class Listener {
 public:
  // Binds and serves. `services` and `authenticate` must outlive it. Unavailable or
  // InvalidArgument, naming the address, when it cannot be had.
  static absl::StatusOr<std::unique_ptr<Listener>> Start(
      const ListenerOptions& options,
      const std::vector<grpc::Service*>& services,
      const Authenticate& authenticate);

  uint16_t port() const { return acceptor_->port(); }
  grpc::Server& server() { return *server_; }
  // Refuses new connections and calls at once; calls that have not ended by then are cancelled.
  void Shutdown(std::chrono::system_clock::time_point deadline);

 private:
  std::unique_ptr<GrpcAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_LISTENER_H_
