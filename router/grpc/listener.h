// What every gRPC port of a router has in common: address, limits, keep-alive, and reflection that
// asks for the key. Stateless.
#ifndef PACELINE_ROUTER_GRPC_LISTENER_H_
#define PACELINE_ROUTER_GRPC_LISTENER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/server.h"
#include "router/core/request_context.h"

namespace paceline::router {

struct ListenerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 0;  // 0: a free one
  int max_message_bytes = 4 << 20;
  int max_metadata_bytes = 16 << 10;
  int max_streams_per_connection = 100;
};

// Binds and serves; `port` gets the port. `services` and `authenticate` must outlive the server.
// Unavailable, naming the address, when it cannot be had.
absl::StatusOr<std::unique_ptr<grpc::Server>> Listen(const ListenerOptions& options,
                                                     const std::vector<grpc::Service*>& services,
                                                     const Authenticate& authenticate,
                                                     int* port);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_LISTENER_H_
