// paceline.v1.Admin. Owned by the process, registered with the operator's gRPC server; thread-safe.
#ifndef PACELINE_ROUTER_GRPC_ADMIN_SERVICE_H_
#define PACELINE_ROUTER_GRPC_ADMIN_SERVICE_H_

#include <functional>
#include <vector>

#include "proto/paceline/v1/admin.grpc.pb.h"
#include "router/core/request_context.h"

namespace paceline::router {

class AdminService final : public v1::Admin::CallbackService {
 public:
  struct Options {
    std::function<std::vector<v1::ReplicaInfo>()> list_replicas;  // any thread
    Authenticate authenticate;  // the operator's own key; null: none
  };

  explicit AdminService(Options options);

  grpc::ServerUnaryReactor* ListReplicas(grpc::CallbackServerContext* context,
                                         const v1::ListReplicasRequest* request,
                                         v1::ListReplicasResponse* response) override;
  // Sets the level of this process's log.
  grpc::ServerUnaryReactor* SetLogLevel(grpc::CallbackServerContext* context,
                                        const v1::SetLogLevelRequest* request,
                                        v1::SetLogLevelResponse* response) override;

  // Not built yet.
  grpc::ServerUnaryReactor* DrainReplica(grpc::CallbackServerContext* context,
                                         const v1::DrainReplicaRequest* request,
                                         v1::DrainReplicaResponse* response) override;
  grpc::ServerUnaryReactor* LoadAdapter(grpc::CallbackServerContext* context,
                                        const v1::LoadAdapterRequest* request,
                                        v1::LoadAdapterResponse* response) override;
  grpc::ServerUnaryReactor* UnloadAdapter(grpc::CallbackServerContext* context,
                                          const v1::UnloadAdapterRequest* request,
                                          v1::UnloadAdapterResponse* response) override;
  grpc::ServerUnaryReactor* FlushPrefixCache(grpc::CallbackServerContext* context,
                                             const v1::FlushPrefixCacheRequest* request,
                                             v1::FlushPrefixCacheResponse* response) override;

 private:
  template <class Answer>
  grpc::ServerUnaryReactor* Run(grpc::CallbackServerContext* context, const Answer& answer);
  grpc::ServerUnaryReactor* NotBuilt(grpc::CallbackServerContext* context);

  const Options options_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_ADMIN_SERVICE_H_
