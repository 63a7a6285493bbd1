// The value of --workers: which addresses the fleet attaches to. Plain values; any thread.
#ifndef PACELINE_ROUTER_FLEET_ADDRESS_LIST_H_
#define PACELINE_ROUTER_FLEET_ADDRESS_LIST_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline::router {

struct WorkerAddresses {
  std::vector<std::string> fixed;  // host:port
  // dns:///name:port: every address that `dns_name` resolves to is a replica.
  std::string dns_name;
  std::string dns_port;
  // kubernetes:///service.namespace:port: who starts the fleet follows the Service's endpoints and
  // says which they are (Fleet::SetAddresses). The namespace may be empty, the port be a name.
  std::string service;
  std::string name_space;
  std::string service_port;
};

// "host:port,host:port", "dns:///name:port" or "kubernetes:///service.namespace:port" (one).
// InvalidArgument for anything else, duplicates and ports outside 1..65535.
absl::StatusOr<WorkerAddresses> ParseWorkerAddresses(std::string_view spec);

// All addresses of `name` as "ip:port" (IPv6 in brackets), sorted, each once. Blocks.
absl::StatusOr<std::vector<std::string>> ResolveAddresses(const std::string& name,
                                                          const std::string& port);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_FLEET_ADDRESS_LIST_H_
