// paceline.v1.Inference on gRPC's callback API. Owned by GrpcServer; thread-safe.
#ifndef PACELINE_ROUTER_GRPC_INFERENCE_SERVICE_H_
#define PACELINE_ROUTER_GRPC_INFERENCE_SERVICE_H_

#include <memory>
#include <string_view>

#include "proto/paceline/v1/inference.grpc.pb.h"
#include "router/core/call.h"
#include "router/core/request_context.h"
#include "router/core/thread_pool.h"
#include "router/grpc/call_context.h"
#include "router/grpc/live_calls.h"

namespace paceline::router {

class InferenceService final : public v1::Inference::CallbackService {
 public:
  // `service` and `executor` must outlive the server that this is registered with. The executor
  // runs Tokenize and Detokenize; null: gRPC's own threads do.
  InferenceService(router::Service* service,
                   Executor* executor,
                   Authenticate authenticate,
                   OnGrpcAnswered on_answered);

  // Calls that are running, for an orderly end.
  LiveCalls& live_calls() { return *live_calls_; }

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<v1::GenerateChunk>* GenerateStream(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Chat(grpc::CallbackServerContext* context,
                                 const v1::ChatRequest* request,
                                 v1::ChatResponse* response) override;
  grpc::ServerWriteReactor<v1::ChatChunk>* ChatStream(grpc::CallbackServerContext* context,
                                                      const v1::ChatRequest* request) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context,
                                  const v1::EmbedRequest* request,
                                  v1::EmbedResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::ModelInfo* response) override;

 private:
  template <class Response, class Request>
  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context,
                                  std::string_view route,
                                  const Request& request,
                                  Response* response);
  template <class Chunk, class Request>
  grpc::ServerWriteReactor<Chunk>* Stream(grpc::CallbackServerContext* context,
                                          std::string_view route,
                                          const Request& request);
  // Runs `answer`, which returns nullopt or an error, if the caller has a key.
  template <class Answer>
  grpc::ServerUnaryReactor* Simple(grpc::CallbackServerContext* context,
                                   std::string_view route,
                                   Executor* executor,
                                   Answer answer);

  router::Service* const service_;
  Executor* const executor_;
  const Authenticate authenticate_;
  const OnGrpcAnswered on_answered_;
  const std::shared_ptr<LiveCalls> live_calls_ = std::make_shared<LiveCalls>();
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_INFERENCE_SERVICE_H_
