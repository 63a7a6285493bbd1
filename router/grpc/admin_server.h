// The operator's gRPC endpoint of a router: paceline.v1.Admin on an address of its own. Owned by
// the process; Start and Stop from one thread.
#ifndef PACELINE_ROUTER_GRPC_ADMIN_SERVER_H_
#define PACELINE_ROUTER_GRPC_ADMIN_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "grpcpp/server.h"
#include "router/grpc/admin_service.h"
#include "router/grpc/listener.h"

namespace paceline::router {

class AdminServer {
 public:
  AdminServer(ListenerOptions options, AdminService::Options service);
  // Stops at once.
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  // Binds and serves. At most once.
  absl::Status Start();
  // REQUIRES: started.
  uint16_t port() const { return listener_->port(); }
  void Stop(std::chrono::milliseconds grace);

 private:
  const ListenerOptions options_;
  const Authenticate authenticate_;
  AdminService service_;
  std::unique_ptr<Listener> listener_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_ADMIN_SERVER_H_
