#include "worker/service/submit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "proto/support/status_macros.h"
#include "proto/support/trace.h"

namespace paceline::worker {
namespace {

constexpr int32_t kMaxChoices = 16;
constexpr int32_t kMaxLogprobs = 20;
constexpr int32_t kMaxBiases = 1024;
constexpr int32_t kMaxStopIds = 1024;
constexpr int32_t kMaxIdBytes = 256;

// It goes to the log.
bool IsId(const std::string& id) {
  return !id.empty() && id.size() <= kMaxIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c >= ' ' && c < 0x7f; });
}

absl::Status CheckIds(absl::string_view field,
                      const google::protobuf::RepeatedField<int32_t>& ids,
                      int32_t vocab_size) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ": token id outside the vocabulary of ", vocab_size));
    }
  }
  return absl::OkStatus();
}

// `value` finite and in [low, high].
absl::Status CheckRange(absl::string_view field, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": must be within ", low, " .. ", high));
}

absl::Status CheckCount(absl::string_view field, int64_t count, int64_t limit) {
  if (count <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": at most ", limit, " entries"));
}

absl::Status CheckSampling(const v1::EngineSampling& s, const SubmitLimits& limits) {
  RETURN_IF_ERROR(CheckRange("max_tokens", s.max_tokens(), 1, limits.max_model_len));
  RETURN_IF_ERROR(CheckRange("min_tokens", s.min_tokens(), 0, s.max_tokens()));
  RETURN_IF_ERROR(CheckRange("temperature", s.temperature(), 0, 100));
  RETURN_IF_ERROR(CheckRange("top_p", s.top_p(), 1e-9, 1));
  RETURN_IF_ERROR(CheckRange("top_k", s.top_k(), 0, limits.vocab_size));
  RETURN_IF_ERROR(CheckRange("min_p", s.min_p(), 0, 1));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", s.frequency_penalty(), -2, 2));
  RETURN_IF_ERROR(CheckRange("presence_penalty", s.presence_penalty(), -2, 2));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", s.repetition_penalty(), 1e-6, 100));
  RETURN_IF_ERROR(CheckRange("logprobs", s.logprobs(), -1, kMaxLogprobs));
  RETURN_IF_ERROR(CheckRange("prompt_logprobs", s.prompt_logprobs(), -1, kMaxLogprobs));
  if (s.logit_bias_ids_size() != s.logit_bias_values_size()) {
    return absl::InvalidArgumentError("logit_bias: ids and values differ in number");
  }
  RETURN_IF_ERROR(CheckCount("logit_bias", s.logit_bias_ids_size(), kMaxBiases));
  RETURN_IF_ERROR(CheckIds("logit_bias", s.logit_bias_ids(), limits.vocab_size));
  for (const float value : s.logit_bias_values()) {
    RETURN_IF_ERROR(CheckRange("logit_bias", value, -100, 100));
  }
  RETURN_IF_ERROR(CheckCount("allowed_token_ids", s.allowed_token_ids_size(), limits.vocab_size));
  RETURN_IF_ERROR(CheckIds("allowed_token_ids", s.allowed_token_ids(), limits.vocab_size));
  RETURN_IF_ERROR(CheckCount("stop_token_ids", s.stop_token_ids_size(), kMaxStopIds));
  return CheckIds("stop_token_ids", s.stop_token_ids(), limits.vocab_size);
}

SamplingParams ToSampling(const v1::EngineSampling& s) {
  SamplingParams params{
      .max_tokens = s.max_tokens(),
      .min_tokens = s.min_tokens(),
      .temperature = s.temperature(),
      .top_p = s.top_p(),
      .top_k = s.top_k(),
      .min_p = s.min_p(),
      .frequency_penalty = s.frequency_penalty(),
      .presence_penalty = s.presence_penalty(),
      .repetition_penalty = s.repetition_penalty(),
      .allowed_token_ids = {s.allowed_token_ids().begin(), s.allowed_token_ids().end()},
      .ignore_eos = s.ignore_eos(),
      .stop_token_ids = {s.stop_token_ids().begin(), s.stop_token_ids().end()},
      .logprobs = s.logprobs(),
      .prompt_logprobs = s.prompt_logprobs(),
  };
  for (int i = 0; i < s.logit_bias_ids_size(); ++i) {
    params.logit_bias.emplace_back(s.logit_bias_ids(i), s.logit_bias_values(i));
  }
  return params;
}

}  // namespace

absl::StatusOr<Request> RequestFromSubmit(const v1::Submit& submit,
                                          const SubmitLimits& limits,
                                          uint64_t session,
                                          int64_t now_ns) {
  if (!IsId(submit.request_id())) {
    return absl::InvalidArgumentError("request_id: must have 1 .. 256 printable ASCII characters");
  }
  if (submit.cache_salt().size() > kMaxIdBytes) {
    return absl::InvalidArgumentError("cache_salt: at most 256 bytes");
  }
  if (!submit.adapter().empty()) {
    return absl::UnimplementedError("adapter: adapters are not supported yet");
  }
  RETURN_IF_ERROR(CheckRange("n", submit.n(), 1, kMaxChoices));
  RETURN_IF_ERROR(CheckRange("first_choice_index", submit.first_choice_index(), 0, kMaxChoices));
  RETURN_IF_ERROR(CheckIds("prompt_token_ids", submit.prompt_token_ids(), limits.vocab_size));
  RETURN_IF_ERROR(CheckRange(
      "num_prompt_tokens", submit.num_prompt_tokens(), 1, submit.prompt_token_ids_size()));
  if (submit.n() > 1 && submit.num_prompt_tokens() != submit.prompt_token_ids_size()) {
    return absl::InvalidArgumentError("n: a replay carries one choice");
  }
  if (submit.deadline_ms() < 0) return absl::InvalidArgumentError("deadline_ms: must be >= 0");
  RETURN_IF_ERROR(CheckSampling(submit.sampling(), limits));
  return Request{
      .id = submit.request_id(),
      .attempt = submit.attempt(),
      .session = session,
      .token_ids = {submit.prompt_token_ids().begin(), submit.prompt_token_ids().end()},
      .num_prompt_tokens = submit.num_prompt_tokens(),
      .sampling = ToSampling(submit.sampling()),
      .seed = submit.seed(),
      .n = submit.n(),
      .first_choice_index = submit.first_choice_index(),
      .cache_salt = submit.cache_salt(),
      .traceparent = IsValidTraceparent(submit.traceparent()) ? submit.traceparent() : "",
      .priority = submit.priority(),
      .deadline_ns = submit.deadline_ms() == 0 ? 0 : now_ns + submit.deadline_ms() * 1'000'000,
      .arrival_ns = now_ns,
  };
}

}  // namespace paceline::worker
