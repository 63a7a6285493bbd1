// One running call: the request log (prompt ids, parameters, emitted ids per choice) and the way
// from a worker's results to the client's chunks. Owned by Dispatcher; the router's loop thread
// only.
#ifndef PACELINE_ROUTER_DISPATCH_CALL_STATE_H_
#define PACELINE_ROUTER_DISPATCH_CALL_STATE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "proto/block_hash.h"
#include "proto/paceline/v1/worker.pb.h"
#include "router/core/call.h"
#include "router/core/event_loop.h"
#include "router/dispatch/call_trace.h"
#include "router/dispatch/catalog.h"
#include "router/dispatch/prepare.h"
#include "router/text/output_assembler.h"

namespace paceline::router {

// What one choice has said so far.
struct ChoiceState {
  std::vector<int32_t> emitted;  // exactly what a replay continues
  std::unique_ptr<OutputAssembler> output;
  bool is_begun = false;             // its first chunk went out
  bool has_prompt_logprobs = false;  // they went out with one of its chunks
  bool is_done = false;              // its last chunk went out
  int32_t attempts = 0;              // how often it was sent to a worker
  std::string numerics;              // of the replica that emitted its first token
  v1::FinishReason finish_reason = v1::FINISH_REASON_UNSPECIFIED;
  int64_t last_token_ns = 0;
};

// A run of choices that waits to be sent.
struct PendingPart {
  int32_t first_choice = 0;
  int32_t n = 1;
  // When it is sent again:
  int64_t lost_ns = 0;       // since when it waits; 0: it is sent for the first time
  std::string lost_replica;  // that failed it
  const char* reason = "";
};

enum class CallPhase { kPreparing, kQueued, kRunning };

class CallState {
 public:
  CallState(uint64_t id, CallRequest request, std::shared_ptr<CallSink> sink, int64_t arrived_ns);

  // Takes over what Prepare made and opens the choices. `request_id` is drawn if the client gave
  // none; the same for `seed`.
  void Begin(Prepared prepared, std::string drawn_request_id, uint64_t drawn_seed);

  // The prompt's log-probabilities come with one choice and belong to all: called for each result
  // of a frame before any of them is delivered.
  void TakePromptLogprobs(const v1::SequenceResult& result);

  // What `result` adds to its choice goes to the sink, at most one chunk. Tokens that are known
  // already are skipped. Statuses:
  //   OK: applied (also when the choice was done before);
  //   InvalidArgument: the result contradicts the protocol, nothing was applied;
  // REQUIRES: the choice exists and result.finish_reason is none, stop or length.
  absl::Status Deliver(const v1::SequenceResult& result, int64_t now_ns);

  // The message that runs choices [first_choice, first_choice + n) from where they are.
  // REQUIRES: n == 1, or none of them has emitted anything.
  // `traceparent` is for the worker; may be empty.
  v1::Submit MakeSubmit(const PendingPart& part,
                        const std::string& traceparent,
                        int64_t now_ns) const;

  // Hashes of the prompt's full blocks; remembered, as replicas of a model mostly agree on these.
  const std::vector<BlockHash>& PrefixHashes(const std::string& model_digest, int32_t block_size);

  bool AllDone() const;
  v1::Usage UsageSoFar() const;
  int64_t tokens_of(int32_t choice) const {
    return static_cast<int64_t>(choices[choice].emitted.size());
  }

  // Immutable after construction.
  const uint64_t id;
  const CallRequest request;
  const std::shared_ptr<CallSink> sink;
  const int64_t arrived_ns;

  int64_t deadline_ns = 0;  // 0: none
  CallTrace trace;
  std::shared_ptr<const Model> model;
  CallPhase phase = CallPhase::kPreparing;

  // From Begin on.
  Prepared prepared;
  std::string request_id;
  uint64_t seed = 0;
  std::string worker_salt;
  std::vector<ChoiceState> choices;

  // Where it runs and what waits.
  std::vector<std::string> parts;  // wire ids of what is at workers
  std::vector<PendingPart> pending;
  std::vector<int32_t> avoid;  // replicas that failed it
  // Incarnations of replicas that were lost while they ran it, and have not come back alive.
  struct Death {
    int32_t replica = 0;
    uint64_t epoch = 0;
    bool is_silence = false;  // no frame for the lease: it may yet come back
  };
  std::vector<Death> deaths;
  bool has_retry_grant = false;  // this round of retries is within the budget
  bool is_paused = false;
  std::string last_replica;

  // Timers of the loop.
  EventLoop::TimerId deadline_timer;
  EventLoop::TimerId wait_timer;    // for a replica to become ready
  EventLoop::TimerId reader_timer;  // for a slow reader to catch up

  int64_t queued_ns = 0;
  int64_t sent_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  int32_t cached_tokens = 0;

 private:
  void AppendTokens(const v1::SequenceResult& result,
                    int32_t skip,
                    ChoiceState& choice,
                    v1::GenerateChunk& chunk);
  void AppendPromptLogprobs(v1::GenerateChunk& chunk) const;
  void FinishChoice(const v1::SequenceResult& result,
                    ChoiceState& choice,
                    v1::GenerateChunk& chunk);
  void Emit(int32_t index, ChoiceState& choice, v1::GenerateChunk chunk);

  int64_t completion_tokens_ = 0;
  bool is_prompt_sent_ = false;
  // The prompt's log-probabilities, as the first result of any choice brought them.
  std::vector<v1::Logprobs> prompt_logprobs_;
  std::string hashes_digest_;
  int32_t hashes_block_size_ = 0;
  std::vector<BlockHash> hashes_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_CALL_STATE_H_
