#include "router/admission/validate.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "router/admission/json_text.h"
#include "router/admission/utf8_check.h"

namespace paceline::router {
namespace {

using Fault = std::optional<ApiError>;

#define RETURN_IF_FAULT(expr)                                  \
  do {                                                         \
    if (Fault fault = (expr); fault.has_value()) return fault; \
  } while (0)

Fault NotBuilt(const char* field) {
  return InvalidParam(field, absl::StrCat(field, " is not supported yet"), "unsupported_parameter");
}

// [low, high]; NaN is outside of everything.
Fault Within(const char* field, double value, double low, double high) {
  if (value >= low && value <= high) return std::nullopt;
  return InvalidParam(field, absl::StrCat(field, " must be within ", low, " to ", high));
}

// (0, high], where what is below `least` counts as 0: the engine computes in floats.
Fault Positive(const char* field, double value, double least, double high) {
  if (value >= least && value <= high) return std::nullopt;
  return InvalidParam(field, absl::StrCat(field, " must be above 0 and at most ", high));
}

Fault WithinInt(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return std::nullopt;
  return InvalidParam(field, absl::StrCat(field, " must be within ", low, " to ", high));
}

Fault AtMost(const char* field, int64_t count, int64_t most) {
  if (count <= most) return std::nullopt;
  return InvalidParam(field, absl::StrCat(field, " may have at most ", most, " entries"));
}

Fault TokenId(const std::string& field, int64_t id, int32_t vocab_size) {
  if (id >= 0 && id < vocab_size) return std::nullopt;
  return InvalidParam(
      field, absl::StrCat(field, " holds a token id that is not within 0 to ", vocab_size - 1));
}

Fault CheckNotBuilt(const v1::SamplingParams& s) {
  if (s.has_typical_p() && s.typical_p() != 1.0) return NotBuilt("typical_p");
  if (s.has_best_of() && s.best_of() != (s.has_n() ? s.n() : 1)) return NotBuilt("best_of");
  if (s.use_beam_search()) return NotBuilt("use_beam_search");
  if (s.has_length_penalty() && s.length_penalty() != 1.0) return NotBuilt("length_penalty");
  if (!s.bad_words().empty()) return NotBuilt("bad_words");
  return std::nullopt;
}

Fault ResolveNumbers(const v1::SamplingParams& s,
                     const ModelLimits& model,
                     const ParameterLimits& limits,
                     ResolvedRequest& out) {
  v1::EngineSampling& e = out.sampling;
  const double temperature = s.has_temperature() ? s.temperature() : 1.0;
  RETURN_IF_FAULT(Within("temperature", temperature, 0, 100));
  e.set_temperature(temperature < 1e-5 ? 0.0F : static_cast<float>(temperature));

  const double top_p = s.has_top_p() ? s.top_p() : 1.0;
  RETURN_IF_FAULT(Positive("top_p", top_p, 2e-9, 1));
  e.set_top_p(static_cast<float>(top_p));

  const int64_t top_k = s.top_k();
  if (top_k != -1) RETURN_IF_FAULT(WithinInt("top_k", top_k, 0, model.vocab_size));
  e.set_top_k(static_cast<int32_t>(std::max<int64_t>(top_k, 0)));

  RETURN_IF_FAULT(Within("min_p", s.min_p(), 0, 1));
  e.set_min_p(static_cast<float>(s.min_p()));
  RETURN_IF_FAULT(Within("frequency_penalty", s.frequency_penalty(), -2, 2));
  e.set_frequency_penalty(static_cast<float>(s.frequency_penalty()));
  RETURN_IF_FAULT(Within("presence_penalty", s.presence_penalty(), -2, 2));
  e.set_presence_penalty(static_cast<float>(s.presence_penalty()));
  const double repetition = s.has_repetition_penalty() ? s.repetition_penalty() : 1.0;
  RETURN_IF_FAULT(Positive("repetition_penalty", repetition, 2e-6, 100));
  e.set_repetition_penalty(static_cast<float>(repetition));

  out.n = s.has_n() ? s.n() : 1;
  RETURN_IF_FAULT(WithinInt("n", out.n, 1, limits.max_n));
  if (s.has_seed()) {
    RETURN_IF_FAULT(WithinInt("seed", s.seed(), 0, INT64_MAX));
    out.seed = static_cast<uint64_t>(s.seed());
  }
  return std::nullopt;
}

Fault ResolveLengths(const v1::SamplingParams& s, ResolvedRequest& out) {
  if (s.has_max_tokens()) {
    RETURN_IF_FAULT(WithinInt("max_tokens", s.max_tokens(), 1, INT32_MAX));
    out.max_tokens = s.max_tokens();
  }
  RETURN_IF_FAULT(WithinInt("min_tokens", s.min_tokens(), 0, INT32_MAX));
  if (out.max_tokens && s.min_tokens() > *out.max_tokens) {
    return InvalidParam("min_tokens", "min_tokens must not exceed max_tokens");
  }
  out.sampling.set_min_tokens(s.min_tokens());
  return std::nullopt;
}

Fault ResolveStop(const v1::SamplingParams& s,
                  const ModelLimits& model,
                  const ParameterLimits& limits,
                  ResolvedRequest& out) {
  RETURN_IF_FAULT(AtMost("stop", s.stop_size(), limits.max_stop));
  for (const std::string& text : s.stop()) {
    if (text.empty() || text.size() > static_cast<size_t>(limits.max_stop_bytes) ||
        !IsValidUtf8(text)) {
      return InvalidParam(
          "stop",
          absl::StrCat(
              "stop entries must be 1 to ", limits.max_stop_bytes, " bytes of valid UTF-8"));
    }
    out.stop.push_back(text);
  }
  RETURN_IF_FAULT(AtMost("stop_token_ids", s.stop_token_ids_size(), limits.max_stop_token_ids));
  RETURN_IF_FAULT(ValidateTokenIds(s.stop_token_ids(), model.vocab_size, "stop_token_ids"));
  for (const int64_t id : s.stop_token_ids()) {
    out.sampling.add_stop_token_ids(static_cast<int32_t>(id));
  }
  out.include_stop_str_in_output = s.include_stop_str_in_output();
  out.sampling.set_ignore_eos(s.ignore_eos());
  return std::nullopt;
}

Fault ResolveTokenSets(const v1::SamplingParams& s,
                       const ModelLimits& model,
                       const ParameterLimits& limits,
                       ResolvedRequest& out) {
  RETURN_IF_FAULT(
      AtMost("logit_bias", static_cast<int64_t>(s.logit_bias_size()), limits.max_logit_bias));
  std::vector<std::pair<int64_t, double>> bias(s.logit_bias().begin(), s.logit_bias().end());
  std::sort(bias.begin(), bias.end());  // a map's order is not fixed; the engine's input is
  for (const auto& [id, value] : bias) {
    RETURN_IF_FAULT(TokenId("logit_bias", id, model.vocab_size));
    RETURN_IF_FAULT(Within("logit_bias", value, -100, 100));
    out.sampling.add_logit_bias_ids(static_cast<int32_t>(id));
    out.sampling.add_logit_bias_values(static_cast<float>(value));
  }
  RETURN_IF_FAULT(AtMost("allowed_token_ids", s.allowed_token_ids_size(), model.vocab_size));
  RETURN_IF_FAULT(ValidateTokenIds(s.allowed_token_ids(), model.vocab_size, "allowed_token_ids"));
  for (const int64_t id : s.allowed_token_ids()) {
    out.sampling.add_allowed_token_ids(static_cast<int32_t>(id));
  }
  return std::nullopt;
}

// `switched_on`: ChatRequest.logprobs; nullopt for Generate, where SamplingParams.logprobs is k.
Fault ResolveLogprobs(const v1::SamplingParams& s,
                      std::optional<bool> switched_on,
                      const ParameterLimits& limits,
                      ResolvedRequest& out) {
  int32_t logprobs = -1;
  if (!switched_on.has_value()) {
    if (s.has_top_logprobs()) {
      return InvalidParam("top_logprobs", "top_logprobs belongs to chat requests; use logprobs");
    }
    if (s.has_logprobs()) {
      RETURN_IF_FAULT(WithinInt("logprobs", s.logprobs(), 0, limits.max_logprobs));
      logprobs = s.logprobs();
    }
  } else {
    if (s.has_logprobs()) {
      return InvalidParam("logprobs",
                          "chat requests switch logprobs on with true; use top_logprobs");
    }
    RETURN_IF_FAULT(WithinInt("top_logprobs", s.top_logprobs(), 0, limits.max_logprobs));
    if (s.top_logprobs() > 0 && !*switched_on) {
      return InvalidParam("top_logprobs", "top_logprobs needs logprobs to be true");
    }
    if (*switched_on) logprobs = s.top_logprobs();
  }
  out.sampling.set_logprobs(logprobs);
  out.sampling.set_prompt_logprobs(-1);
  if (s.has_prompt_logprobs()) {
    RETURN_IF_FAULT(WithinInt("prompt_logprobs", s.prompt_logprobs(), 0, limits.max_logprobs));
    out.sampling.set_prompt_logprobs(s.prompt_logprobs());
  }
  return std::nullopt;
}

Fault ResolveSampling(const v1::SamplingParams& s,
                      std::optional<bool> chat_logprobs,
                      const ModelLimits& model,
                      const ParameterLimits& limits,
                      ResolvedRequest& out) {
  RETURN_IF_FAULT(ResolveNumbers(s, model, limits, out));
  RETURN_IF_FAULT(CheckNotBuilt(s));
  RETURN_IF_FAULT(ResolveLengths(s, out));
  RETURN_IF_FAULT(ResolveStop(s, model, limits, out));
  RETURN_IF_FAULT(ResolveTokenSets(s, model, limits, out));
  RETURN_IF_FAULT(ResolveLogprobs(s, chat_logprobs, limits, out));
  out.skip_special_tokens = !s.has_skip_special_tokens() || s.skip_special_tokens();
  out.return_token_ids = s.return_token_ids();
  return std::nullopt;
}

Fault ResolveOptions(const v1::RequestOptions& o,
                     const ParameterLimits& limits,
                     ResolvedRequest& out) {
  if (!o.request_id().empty()) {
    const bool is_printable = absl::c_all_of(
        o.request_id(), [](char c) { return absl::ascii_isprint(static_cast<unsigned char>(c)); });
    if (!is_printable || o.request_id().size() > static_cast<size_t>(limits.max_request_id_bytes)) {
      return InvalidParam("request_id",
                          absl::StrCat("request_id must be 1 to ",
                                       limits.max_request_id_bytes,
                                       " printable ASCII characters"));
    }
    out.request_id = o.request_id();
  }
  RETURN_IF_FAULT(WithinInt("priority", o.priority(), -1000, 1000));
  out.priority = o.priority();
  const bool has_control = absl::c_any_of(
      o.cache_salt(), [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); });
  if (has_control || o.cache_salt().size() > static_cast<size_t>(limits.max_cache_salt_bytes)) {
    return InvalidParam("cache_salt",
                        absl::StrCat("cache_salt must be at most ",
                                     limits.max_cache_salt_bytes,
                                     " bytes without control characters"));
  }
  out.cache_salt = o.cache_salt();
  if (o.has_truncate_prompt_tokens()) {
    RETURN_IF_FAULT(WithinInt("truncate_prompt_tokens", o.truncate_prompt_tokens(), 1, INT32_MAX));
    out.truncate_prompt_tokens = o.truncate_prompt_tokens();
  }
  if (o.has_timeout()) {
    if (!(o.timeout() > 0 && o.timeout() <= 86400)) {
      return InvalidParam("timeout", "timeout must be above 0 and at most 86400 seconds");
    }
    out.timeout_ms = std::max<int64_t>(1, std::llround(o.timeout() * 1000));
  }
  return std::nullopt;
}

Fault ResolveGenerate(const v1::GenerateRequest& request,
                      const ModelLimits& model,
                      const ParameterLimits& limits,
                      ResolvedRequest& out) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      if (!IsValidUtf8(request.text())) return InvalidParam("prompt", "prompt is not valid UTF-8");
      break;
    case v1::GenerateRequest::kTokenIds:
      if (request.token_ids().ids().empty()) {
        return InvalidParam("prompt", "prompt must have at least one token");
      }
      RETURN_IF_FAULT(ValidateTokenIds(request.token_ids().ids(), model.vocab_size, "prompt"));
      break;
    default:
      return InvalidParam("prompt", "prompt is required: text or token ids");
  }
  out.echo = request.echo();
  out.add_special_tokens = !request.has_add_special_tokens() || request.add_special_tokens();
  RETURN_IF_FAULT(ResolveSampling(request.sampling(), std::nullopt, model, limits, out));
  return ResolveOptions(request.options(), limits, out);
}

Fault ResolveChat(const v1::ChatRequest& request,
                  const ModelLimits& model,
                  const ParameterLimits& limits,
                  ResolvedRequest& out) {
  out.is_chat = true;
  RETURN_IF_FAULT(ValidateMessages(request.messages(), limits));
  if (!request.tools_json().empty()) return NotBuilt("tools");
  RETURN_IF_FAULT(ValidateTemplateKwargs(request.chat_template_kwargs_json(),
                                         limits.max_template_kwargs_bytes,
                                         limits.max_json_depth));
  out.add_generation_prompt =
      !request.has_add_generation_prompt() || request.add_generation_prompt();
  RETURN_IF_FAULT(ResolveSampling(request.sampling(), request.logprobs(), model, limits, out));
  return ResolveOptions(request.options(), limits, out);
}

bool IsKnownRole(const std::string& role) {
  for (const char* known : {"system", "developer", "user", "assistant", "tool"}) {
    if (role == known) return true;
  }
  return false;
}

}  // namespace

ValidateResult ValidateRequest(const v1::GenerateRequest& request,
                               const ModelLimits& model,
                               const ParameterLimits& limits) {
  ResolvedRequest out;
  if (Fault fault = ResolveGenerate(request, model, limits, out)) return *std::move(fault);
  return out;
}

ValidateResult ValidateRequest(const v1::ChatRequest& request,
                               const ModelLimits& model,
                               const ParameterLimits& limits) {
  ResolvedRequest out;
  if (Fault fault = ResolveChat(request, model, limits, out)) return *std::move(fault);
  return out;
}

std::optional<ApiError> ValidateMessages(
    const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages,
    const ParameterLimits& limits) {
  RETURN_IF_FAULT(WithinInt("messages", messages.size(), 1, limits.max_messages));
  for (int i = 0; i < messages.size(); ++i) {
    const v1::ChatMessage& message = messages[i];
    if (!IsKnownRole(message.role())) {
      return InvalidParam(
          absl::StrCat("messages[", i, "].role"),
          absl::StrCat(
              "messages[", i, "].role must be system, developer, user, assistant or tool"));
    }
    if (!IsValidUtf8(message.content()) || !IsValidUtf8(message.name())) {
      return InvalidParam(absl::StrCat("messages[", i, "]"),
                          absl::StrCat("messages[", i, "] is not valid UTF-8"));
    }
    if (!message.tool_calls_json().empty() &&
        !IsJsonArray(message.tool_calls_json(), limits.max_json_depth)) {
      return InvalidParam(absl::StrCat("messages[", i, "].tool_calls"),
                          absl::StrCat("messages[", i, "].tool_calls is not a valid JSON array"));
    }
  }
  return std::nullopt;
}

std::optional<ApiError> ValidateTokenIds(const google::protobuf::RepeatedField<int64_t>& ids,
                                         int32_t vocab_size,
                                         const std::string& param) {
  for (const int64_t id : ids) RETURN_IF_FAULT(TokenId(param, id, vocab_size));
  return std::nullopt;
}

std::optional<ApiError> ResolveLength(int64_t prompt_tokens,
                                      const ModelLimits& model,
                                      ResolvedRequest& request) {
  constexpr int64_t kGenerateDefault = 16;
  constexpr char kCode[] = "context_length_exceeded";
  if (prompt_tokens < 1) return InvalidParam("prompt", "prompt must have at least one token");
  const char* prompt_field = request.is_chat ? "messages" : "prompt";
  const int64_t room = model.max_model_len - prompt_tokens;
  if (room < 1) {
    return InvalidParam(prompt_field,
                        absl::StrCat("The model's context is ",
                                     model.max_model_len,
                                     " tokens; the prompt has ",
                                     prompt_tokens,
                                     ", which leaves no room for an answer"),
                        kCode);
  }
  // What the cache holds can be less than the context; only defaults may shrink to it.
  const int64_t kv_room = model.kv_tokens - prompt_tokens;
  int64_t max_tokens = std::min(room, std::max<int64_t>(kv_room, 1));
  if (!request.is_chat) max_tokens = std::min(max_tokens, kGenerateDefault);
  if (request.max_tokens) max_tokens = *request.max_tokens;
  if (max_tokens > room) {
    return InvalidParam("max_tokens",
                        absl::StrCat("The model's context is ",
                                     model.max_model_len,
                                     " tokens; the prompt has ",
                                     prompt_tokens,
                                     " and max_tokens is ",
                                     max_tokens),
                        kCode);
  }
  if (max_tokens > kv_room) {
    return InvalidParam(prompt_field,
                        absl::StrCat("The prompt's ",
                                     prompt_tokens,
                                     " tokens and ",
                                     max_tokens,
                                     " to generate exceed the ",
                                     model.kv_tokens,
                                     " that a replica's KV cache holds"),
                        "kv_capacity_exceeded");
  }
  if (request.sampling.min_tokens() > max_tokens) {
    return InvalidParam("min_tokens", "min_tokens must not exceed max_tokens");
  }
  request.sampling.set_max_tokens(static_cast<int32_t>(max_tokens));
  return std::nullopt;
}

}  // namespace paceline::router
