// One choice of a request while the engine works on it: tokens, KV blocks, where it stands.
// Owned by the Scheduler from Add until TakeFinished hands it to the engine. Engine thread only.
#ifndef PACELINE_WORKER_CORE_SEQUENCE_H_
#define PACELINE_WORKER_CORE_SEQUENCE_H_

#include <compare>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "worker/core/block_table.h"
#include "worker/core/request.h"

namespace paceline::worker {

// Base of what another part keeps with a sequence (the sampler's state); dies with the sequence.
class SequenceAttachment {
 public:
  virtual ~SequenceAttachment() = default;
};

// Who goes first: lower priority number, then earlier arrival, then lower choice index.
struct SequenceOrder {
  int32_t priority = 0;
  uint64_t number = 0;  // grows with every sequence added; unique
  friend auto operator<=>(const SequenceOrder&, const SequenceOrder&) = default;
};

struct RequestGroup;  // the scheduler's record of a request

struct Sequence {
  enum class State : uint8_t {
    kWaiting,  // not in the batch: new, or preempted (then num_preemptions > 0)
    kForking,  // a later choice that starts when its leader's prompt is computed
    kRunning,  // in every batch that has room for it
    kPaused,   // slow reader; may hold blocks
    kFinished,
  };
  // Asked for while the sequence was in a batch that had not been committed; done by Commit.
  enum class Pending : uint8_t { kNone, kPause, kCancel, kExpire };

  // ---- Tokens. num_computed <= token_ids.size(); the last token's KV is never computed ahead.
  std::vector<int32_t> token_ids;  // prompt, then output
  BlockTable table;                // covers at least num_computed tokens
  int32_t num_computed = 0;        // tokens whose KV is in the cache
  int32_t num_prompt_tokens = 0;   // of token_ids: the prompt proper; replayed tokens are output
  State state = State::kWaiting;
  Pending pending = Pending::kNone;
  bool in_batch = false;  // in a batch that Next returned and Commit has not seen
  bool in_next = false;   // in the batch after it, too (Scheduler::NextAhead)

  // ---- When to stop; from the request and the model, so that a decode reads nothing else.
  bool ignore_eos = false;
  bool has_stop_token_ids = false;
  int32_t min_total_tokens = 0;  // stop tokens count only in a list longer than this
  int32_t max_total_tokens = 0;  // token_ids.size() at which it ends with kLength

  // ---- Identity.
  int32_t choice_index = 0;
  SequenceOrder order;
  std::shared_ptr<const Request> request;
  RequestGroup* group = nullptr;  // the scheduler's
  int32_t num_slots = 1;          // 1 + choices that wait to fork from this one

  // ---- For reports.
  int32_t cached_tokens = 0;  // tokens taken from the prefix cache when first scheduled
  int32_t num_preemptions = 0;
  int32_t num_scored_prompt_tokens = 0;  // the runner's: with prompt_logprobs, rows scored so far
  int32_t num_sent_tokens = 0;  // the engine's: output tokens the client has (replayed ones too)
  int64_t arrival_ns = 0;
  bool was_scheduled = false;  // ever; first_scheduled_ns means something
  int64_t first_scheduled_ns = 0;
  int64_t first_token_ns = 0;  // of this attempt; 0: none
  int64_t last_token_ns = 0;

  std::unique_ptr<SequenceAttachment> sampler_state;  // the sampler's; null until it sets it

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_output_tokens() const { return num_tokens() - num_prompt_tokens; }
  // Tokens still to compute; 1 when decoding, more when in prefill.
  int32_t num_remaining() const { return num_tokens() - num_computed; }
  absl::Span<const int32_t> prompt() const {
    return absl::MakeConstSpan(token_ids).first(num_prompt_tokens);
  }
  absl::Span<const int32_t> output() const {
    return absl::MakeConstSpan(token_ids).subspan(num_prompt_tokens);
  }
  // Block i holds the KV of tokens [i * block_size, (i + 1) * block_size).
  absl::Span<const int32_t> block_table() const { return table.ids(); }
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_CORE_SEQUENCE_H_
