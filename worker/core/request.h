// What the engine needs to know of a request: token ids, resolved sampling parameters, identity. No
// text. Plain values, immutable once submitted; shared by the request's sequences.
#ifndef PACELINE_WORKER_CORE_REQUEST_H_
#define PACELINE_WORKER_CORE_REQUEST_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace paceline::worker {

// Ranges are those of proto/paceline/v1/inference.proto; every default is resolved by the router.
struct SamplingParams {
  int32_t max_tokens = 16;
  int32_t min_tokens = 0;
  float temperature = 1.0F;  // below kGreedyTemperature: greedy
  float top_p = 1.0F;
  int32_t top_k = 0;  // 0: off
  float min_p = 0.0F;
  float frequency_penalty = 0.0F;
  float presence_penalty = 0.0F;
  float repetition_penalty = 1.0F;
  std::vector<std::pair<int32_t, float>> logit_bias;  // (token id, added to its logit)
  std::vector<int32_t> allowed_token_ids;             // empty: all
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  int32_t logprobs = -1;         // -1: none; else so many likeliest per generated token
  int32_t prompt_logprobs = -1;  // -1: none
};

inline constexpr float kGreedyTemperature = 1e-5F;

struct Request {
  std::string id;
  int32_t attempt = 0;
  // The session (router stream) that submitted it; ids are unique per session.
  uint64_t session = 0;
  // The prompt, followed by what was already emitted when the request is a replay.
  std::vector<int32_t> token_ids;
  // How many of token_ids are the prompt proper; the others count as output.
  int32_t num_prompt_tokens = 0;
  SamplingParams sampling;
  uint64_t seed = 0;  // random stream of choice i: (seed, i)
  int32_t n = 1;
  int32_t first_choice_index = 0;
  std::string cache_salt;
  std::string traceparent;  // W3C trace context, for the log; empty: none
  int32_t priority = 0;     // lower runs first
  int64_t deadline_ns = 0;  // on the engine's clock; 0: none
  int64_t arrival_ns = 0;   // on the engine's clock
};

// Numerically those of FinishReason in inference.proto.
enum class FinishReason : int32_t {
  kNone = 0,
  kStop = 1,
  kLength = 2,
  kDeadline = 4,
  kCancelled = 5,
  kError = 6,
};

// Log-probabilities (nats) of one token and of the likeliest at its position, of the distribution
// that the model gave: before masks, bias, penalties, temperature and truncation.
struct TokenLogprobs {
  float logprob = 0.0F;
  int32_t rank = 0;  // 1 is the likeliest; 0: not computed (first prompt token)
  std::vector<std::pair<int32_t, float>> top;  // (token id, log-probability), likeliest first
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_CORE_REQUEST_H_
