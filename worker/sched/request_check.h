// What the scheduler demands of a request, whoever checked it before: every token id within the
// model's vocabulary, every count within its range. Stateless; any thread.
#ifndef PACELINE_WORKER_SCHED_REQUEST_CHECK_H_
#define PACELINE_WORKER_SCHED_REQUEST_CHECK_H_

#include <cstdint>

#include "absl/status/status.h"
#include "worker/core/request.h"

namespace paceline::worker {

struct RequestLimits {
  int32_t vocab_size = 0;     // token ids are below it
  int32_t max_model_len = 0;  // tokens
  int64_t max_kv_tokens = 0;  // of one sequence: what all KV blocks together hold
};

// Choices that one request may ask for.
inline constexpr int32_t kMaxChoices = 128;

// The length of a choice's token list when it ends at the latest.
int32_t MaxTotalTokens(const Request& request, int32_t max_model_len);

// OK, or InvalidArgument. The texts hold no user data.
absl::Status CheckRequest(const Request& request, const RequestLimits& limits);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SCHED_REQUEST_CHECK_H_
