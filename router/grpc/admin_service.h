// paceline.v1.Admin. Owned by AdminServer; thread-safe.
#ifndef PACELINE_ROUTER_GRPC_ADMIN_SERVICE_H_
#define PACELINE_ROUTER_GRPC_ADMIN_SERVICE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/paceline/v1/admin.grpc.pb.h"
#include "router/core/request_context.h"

namespace paceline::router {

class AdminService final : public v1::Admin::CallbackService {
 public:
  // What the core does. Any thread. A `done` that is destroyed uncalled makes the call UNAVAILABLE.
  struct Options {
    std::function<std::vector<v1::ReplicaInfo>()> list_replicas;
    std::function<void(std::string name, bool is_drained, std::function<void(absl::Status)> done)>
        drain_replica;
    std::function<void(std::string model, std::function<void(absl::StatusOr<int32_t>)> done)>
        flush_prefix_cache;
    Authenticate authenticate;  // the operator's own keys; null: none are needed
  };

  explicit AdminService(Options options);

  grpc::ServerUnaryReactor* ListReplicas(grpc::CallbackServerContext* context,
                                         const v1::ListReplicasRequest* request,
                                         v1::ListReplicasResponse* response) override;
  grpc::ServerUnaryReactor* DrainReplica(grpc::CallbackServerContext* context,
                                         const v1::DrainReplicaRequest* request,
                                         v1::DrainReplicaResponse* response) override;
  grpc::ServerUnaryReactor* FlushPrefixCache(grpc::CallbackServerContext* context,
                                             const v1::FlushPrefixCacheRequest* request,
                                             v1::FlushPrefixCacheResponse* response) override;
  // Sets the level of this process's log.
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;
  // Not built yet.
  grpc::ServerUnaryReactor* LoadAdapter(grpc::CallbackServerContext* context,
                                        const v1::LoadAdapterRequest* request,
                                        v1::LoadAdapterResponse* response) override;
  grpc::ServerUnaryReactor* UnloadAdapter(grpc::CallbackServerContext* context,
                                          const v1::UnloadAdapterRequest* request,
                                          v1::UnloadAdapterResponse* response) override;

 private:
  const Options options_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_ADMIN_SERVICE_H_
