// WorkerLink over the Worker.Attach stream. One channel per link, so replicas share neither
// connections nor back-off. No transport keepalive: heartbeats are messages and the lease detects
// silence, so the worker never sees pings that it would punish with too_many_pings.
// Owned by Fleet; see worker_link.h for threads.
#ifndef PACELINE_ROUTER_FLEET_GRPC_WORKER_LINK_H_
#define PACELINE_ROUTER_FLEET_GRPC_WORKER_LINK_H_

#include <functional>
#include <string>

#include "proto/support/tls.h"
#include "router/fleet/worker_link.h"

namespace paceline::router {

struct GrpcLinkOptions {
  int max_message_bytes = 16 << 20;
  int64_t tokenizer_timeout_ms = 10'000;
  const TlsSource* tls = nullptr;      // null: plain text; must outlive the links
  std::string server_name;             // that workers' certificates bear; empty: their address
  std::function<std::string()> token;  // what to show; null: nothing
};

// Makes links to gRPC targets ("host:port").
WorkerLinkFactory GrpcWorkerLinkFactory(GrpcLinkOptions options = {});

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_FLEET_GRPC_WORKER_LINK_H_
