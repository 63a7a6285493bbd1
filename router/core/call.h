// The border between the front ends (http, grpc, offline generate) and the router's core: a request
// goes in, events come out. gRPC's public messages are the canonical form of a request; HTTP bodies
// are parsed into them, so both protocols share one validator and one meaning.
#ifndef PACELINE_ROUTER_CORE_CALL_H_
#define PACELINE_ROUTER_CORE_CALL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "proto/paceline/v1/inference.pb.h"
#include "router/core/api_error.h"

namespace paceline::router {

struct CallRequest {
  std::variant<v1::GenerateRequest, v1::ChatRequest> body;
  std::string tenant;       // from the API key; "default" without keys
  std::string traceparent;  // W3C trace context or empty
  int64_t deadline_ns = 0;  // steady clock (proto/support/clock.h); 0: none. The earlier of this and
                            // options.timeout applies
  bool is_stream = false;   // for metrics only; events are the same
};

// Receives the events of one call: any number of OnChunk, then exactly one of OnDone and OnError,
// then nothing. Called from the router's threads, one call at a time, never with a lock held.
// Implementations must not block.
class CallSink {
 public:
  virtual ~CallSink() = default;
  // New text, token ids, log-probabilities of one choice; its last chunk carries finish_reason. The
  // chunk's usage is set as counted so far. Chat answers come as GenerateChunk too.
  virtual void OnChunk(v1::GenerateChunk chunk) = 0;
  virtual void OnDone(const v1::Usage& usage) = 0;
  virtual void OnError(const ApiError& error) = 0;
};

// A running call. Any thread. Dropping the handle does not cancel.
class CallHandle {
 public:
  virtual ~CallHandle() = default;
  // Ends the call as soon as possible (the worker stops within one step). The sink still gets its
  // terminal event (an error with status CANCELLED), unless it already had one.
  virtual void Cancel() = 0;
  // The front end reports how many bytes wait unsent for a slow reader; the core pauses the sequence
  // past its limit and resumes it when they drain.
  virtual void SetUnsentBytes(int64_t bytes) = 0;
};

struct TokenizeResult {
  std::vector<int32_t> token_ids;
  std::vector<std::string> token_strs;
  std::string prompt;  // the rendered text, for messages
  int32_t max_model_len = 0;
};

// What the front ends call. Implemented by router/dispatch. Thread-safe.
class Service {
 public:
  virtual ~Service() = default;

  // Validates, renders, tokenises, queues and runs `request`; every outcome arrives at `sink`.
  // Returns at once. `sink` is kept alive until its terminal event.
  virtual std::shared_ptr<CallHandle> Start(CallRequest request, std::shared_ptr<CallSink> sink) = 0;

  // These run on the caller's thread (up to 1 s for 1 MB of text).
  virtual std::variant<TokenizeResult, ApiError> Tokenize(const v1::TokenizeRequest& request) = 0;
  virtual std::variant<std::string, ApiError> Detokenize(const v1::DetokenizeRequest& request) = 0;

  virtual std::vector<v1::ModelInfo> ListModels() = 0;
  // At least one replica has made engine progress within its lease.
  virtual bool Ready() = 0;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_CORE_CALL_H_
