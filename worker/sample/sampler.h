// Chooses the next token of one sequence from one row of logits. `Sample` is a function of its
// arguments and of the sequence's token list alone: never of batch-mates, of how the prompt was
// chunked, or of which replica runs it.
// A SamplerState is owned by its sequence; rows of different sequences may be sampled in parallel,
// one state is used by one thread at a time.
//
// The pipeline, in order (vLLM's, so that the same parameters mean the same):
//   0. any NaN or infinity in the row: numeric_error, nothing is chosen
//   1. log-probabilities, when asked for: of the row as the model gave it, before everything below
//   2. allowed_token_ids: other ids cannot be chosen
//   3. logit_bias: added to the logit (an id given twice gets both)
//   4. min_tokens: before output index min_tokens, stop_token_ids cannot be chosen, nor eos_ids
//   unless
//      ignore_eos is set (then an end-of-sequence id is an ordinary token)
//   5. repetition penalty r of tokens in prompt or output: logit > 0 ? logit / r : logit * r
//   6. frequency and presence penalty of tokens in the output: minus count * f, minus p
//   7. greedy (temperature < kGreedyTemperature): the largest logit, lowest id among equals. Else:
//   8. temperature: logits are divided by it
//   9. min_p: drops tokens whose probability is below min_p times the likeliest one's
//  10. top_k: keeps the k likeliest (lowest ids first among equals, so never more than k)
//  11. top_p: keeps the shortest run of likeliest tokens whose share of what 9 and 10 left reaches
//      top_p (lowest ids first among equals; at least one)
//  12. pick: the largest of logit / temperature + Gumbel noise (worker/sample/gumbel.h), which
//  draws
//      from the softmax of what is left
// Steps 3, 5 and 6 touch only the ids concerned; nothing sorts the vocabulary.
#ifndef PACELINE_WORKER_SAMPLE_SAMPLER_H_
#define PACELINE_WORKER_SAMPLE_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "worker/core/request.h"

namespace paceline::worker {

// What earlier tokens mean for the next choice: counts for the penalties. A function of the token
// list, so it is rebuilt after preemption and failover, not migrated.
class SamplerState {
 public:
  struct SeenToken {
    int32_t id;
    int32_t output_count;  // occurrences in the output
  };

  // State of choice `choice_index` of `request` after `prompt` and `output` (which for a replay
  // holds what was emitted before). O(prompt + output) with penalties, O(1) without.
  static SamplerState Create(const Request& request,
                             int32_t choice_index,
                             absl::Span<const int32_t> prompt,
                             absl::Span<const int32_t> output);

  // `token` was added to the output.
  void Append(int32_t token);

  // Distinct tokens that a penalty concerns, in order of first appearance.
  absl::Span<const SeenToken> seen() const { return seen_; }
  // allowed_token_ids, sorted and without duplicates; empty: all are allowed.
  absl::Span<const int32_t> allowed() const { return allowed_; }
  int32_t choice_index() const { return choice_index_; }

 private:
  void Count(int32_t token, int32_t output_occurrences);

  int32_t choice_index_ = 0;
  bool counts_prompt_ = false;  // repetition penalty
  bool counts_output_ = false;  // any penalty
  std::vector<int32_t> allowed_;
  std::vector<SeenToken> seen_;
  absl::flat_hash_map<int32_t, int32_t> seen_index_;  // token id → index in seen_
};

struct SampleResult {
  int32_t token_id = -1;       // -1 with numeric_error or no_candidate
  bool numeric_error = false;  // NaN or infinity in the row
  bool no_candidate = false;   // the request's own masks left no token
  bool has_logprobs = false;
  TokenLogprobs logprobs;  // of token_id, with sampling.logprobs likeliest
};

// Chooses the token of output index `position`, counted from the start of the output, replayed
// tokens included. Ids outside the row in the parameters are ignored. REQUIRES: `state` is of
// (request, choice_index) and holds exactly the `position` output tokens so far; the row is not
// empty.
SampleResult Sample(absl::Span<float> logits,  // [vocab_size]; left in an unspecified state
                    const Request& request,
                    int32_t choice_index,
                    int32_t position,
                    const SamplerState* state,
                    absl::Span<const int32_t> eos_ids);

// Whether Sample's answer is the best logit's token, whatever the other logits are, as long as all
// are finite.
bool TakesTheBest(const SamplingParams& params, int32_t position);

// Log-probability and rank of a prompt's own token `actual_token`, and of the `k` likeliest, under
// the row computed at the token before it. `rank` is 1 + the number of tokens with a larger logit.
// A row with NaN or infinity gives rank 0.
// REQUIRES: 0 <= actual_token < logits.size(), k >= 0.
TokenLogprobs PromptLogprobs(absl::Span<const float> logits, int32_t actual_token, int32_t k);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SAMPLE_SAMPLER_H_
