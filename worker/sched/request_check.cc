#include "worker/sched/request_check.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

absl::Status CheckTokenIds(absl::Span<const int32_t> ids,
                           int32_t vocab_size,
                           absl::string_view field) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": a token id is not within the vocabulary of ", vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCounts(const Request& request) {
  const SamplingParams& sampling = request.sampling;
  const int64_t num_tokens = static_cast<int64_t>(request.token_ids.size());
  if (request.num_prompt_tokens < 1 || request.num_prompt_tokens > num_tokens) {
    return absl::InvalidArgumentError("num_prompt_tokens: must be from 1 to the number of tokens");
  }
  if (request.n < 1 || request.n > kMaxChoices) {
    return absl::InvalidArgumentError(absl::StrCat("n: must be from 1 to ", kMaxChoices));
  }
  if (request.first_choice_index < 0 || request.first_choice_index > kMaxChoices) {
    return absl::InvalidArgumentError("first_choice_index: out of range");
  }
  if (sampling.max_tokens < 1) return absl::InvalidArgumentError("max_tokens: must be at least 1");
  if (sampling.min_tokens < 0 || sampling.min_tokens > sampling.max_tokens) {
    return absl::InvalidArgumentError("min_tokens: must be from 0 to max_tokens");
  }
  if (num_tokens - request.num_prompt_tokens >= sampling.max_tokens) {
    return absl::InvalidArgumentError("max_tokens: the replayed output already has as many");
  }
  return absl::OkStatus();
}

}  // namespace

int32_t MaxTotalTokens(const Request& request, int32_t max_model_len) {
  return static_cast<int32_t>(std::min<int64_t>(
      max_model_len, int64_t{request.num_prompt_tokens} + request.sampling.max_tokens));
}

absl::Status CheckRequest(const Request& request, const RequestLimits& limits) {
  RETURN_IF_ERROR(CheckCounts(request));
  if (request.token_ids.size() >= static_cast<size_t>(limits.max_model_len)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ",
                     request.token_ids.size(),
                     " tokens, which leaves no room in the model's context of ",
                     limits.max_model_len));
  }
  // The last token's KV is never needed.
  const int64_t kv_tokens = int64_t{MaxTotalTokens(request, limits.max_model_len)} - 1;
  if (kv_tokens > limits.max_kv_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("prompt and max_tokens need room for ",
                                                   kv_tokens,
                                                   " tokens in the KV cache, which holds ",
                                                   limits.max_kv_tokens));
  }
  const SamplingParams& sampling = request.sampling;
  RETURN_IF_ERROR(CheckTokenIds(request.token_ids, limits.vocab_size, "prompt_token_ids"));
  RETURN_IF_ERROR(CheckTokenIds(sampling.stop_token_ids, limits.vocab_size, "stop_token_ids"));
  RETURN_IF_ERROR(
      CheckTokenIds(sampling.allowed_token_ids, limits.vocab_size, "allowed_token_ids"));
  for (const auto& [id, bias] : sampling.logit_bias) {
    RETURN_IF_ERROR(CheckTokenIds({&id, 1}, limits.vocab_size, "logit_bias"));
  }
  return absl::OkStatus();
}

}  // namespace paceline::worker
