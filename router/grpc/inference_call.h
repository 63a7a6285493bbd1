// The core's events of one call to gRPC's reactors. Each call has two parts with lives of their
// own: the reactor, which gRPC ends, and the state, which is the core's sink. Whichever goes first
// tells the other.
#ifndef PACELINE_ROUTER_GRPC_INFERENCE_CALL_H_
#define PACELINE_ROUTER_GRPC_INFERENCE_CALL_H_

#include <memory>

#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"
#include "proto/paceline/v1/inference.pb.h"
#include "router/core/call.h"
#include "router/grpc/call_context.h"
#include "router/grpc/live_calls.h"

namespace paceline::router {

v1::ChatChunk ToChatChunk(v1::GenerateChunk chunk);
v1::ChatResponse ToChatResponse(v1::GenerateResponse response);

// Starts `call` and answers it. The reactor deletes itself when gRPC is done with it. Response is
// GenerateResponse or ChatResponse.
template <class Response>
grpc::ServerUnaryReactor* StartUnaryCall(grpc::CallbackServerContext* context,
                                         Service* service,
                                         CallRequest call,
                                         AccessReport report,
                                         std::shared_ptr<LiveCalls> live_calls,
                                         Response* response);

// The same as a stream. Chunk is GenerateChunk or ChatChunk.
template <class Chunk>
grpc::ServerWriteReactor<Chunk>* StartStreamCall(grpc::CallbackServerContext* context,
                                                 Service* service,
                                                 CallRequest call,
                                                 AccessReport report,
                                                 std::shared_ptr<LiveCalls> live_calls);

// A stream that is refused before it begins.
template <class Chunk>
grpc::ServerWriteReactor<Chunk>* RefuseStream(grpc::Status status);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_INFERENCE_CALL_H_
