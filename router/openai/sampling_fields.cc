#include "router/openai/sampling_fields.h"

#include <utility>

#include "absl/strings/numbers.h"

namespace paceline::router {
namespace {

using nlohmann::json;
using Sampling = v1::SamplingParams;

// Calls a setter of SamplingParams or RequestOptions.
template <auto kSet>
void Set(RequestParts& parts, auto value) {
  if constexpr (std::is_invocable_v<decltype(kSet), Sampling&, decltype(value)>) {
    (parts.sampling.*kSet)(value);
  } else {
    (parts.options.*kSet)(value);
  }
}

template <auto kSet>
FieldError Int32(const json& value, std::string_view path, RequestParts& parts) {
  int32_t number;
  if (auto error = ReadInt32(value, path, &number)) return error;
  Set<kSet>(parts, number);
  return std::nullopt;
}
template <auto kSet>
FieldError Int64(const json& value, std::string_view path, RequestParts& parts) {
  int64_t number;
  if (auto error = ReadInt64(value, path, &number)) return error;
  Set<kSet>(parts, number);
  return std::nullopt;
}
template <auto kSet>
FieldError Double(const json& value, std::string_view path, RequestParts& parts) {
  double number;
  if (auto error = ReadDouble(value, path, &number)) return error;
  Set<kSet>(parts, number);
  return std::nullopt;
}
template <auto kSet>
FieldError Bool(const json& value, std::string_view path, RequestParts& parts) {
  bool flag;
  if (auto error = ReadBool(value, path, &flag)) return error;
  Set<kSet>(parts, flag);
  return std::nullopt;
}
// A text of which proto3 cannot tell empty from absent.
template <auto kMutable>
FieldError NonEmptyString(const json& value, std::string_view path, RequestParts& parts) {
  std::string text;
  if (auto error = ReadString(value, path, &text)) return error;
  if (text.empty()) {
    return InvalidParam(std::string(path), Concat(path, " must not be empty"));
  }
  *(parts.options.*kMutable)() = std::move(text);
  return std::nullopt;
}

template <auto kAdd>
FieldError Strings(const json& value, std::string_view path, RequestParts& parts) {
  if (!value.is_array()) return WrongType(path, "an array of strings");
  constexpr size_t kMaxItems = 4096;  // far above every real limit
  if (value.size() > kMaxItems) return OutOfRange(path);
  for (size_t i = 0; i < value.size(); ++i) {
    std::string text;
    if (auto error = ReadString(value[i], Concat(path, "[", i, "]"), &text)) return error;
    *(parts.sampling.*kAdd)() = std::move(text);
  }
  return std::nullopt;
}
constexpr auto kAddStop = static_cast<std::string* (Sampling::*)()>(&Sampling::add_stop);
constexpr auto kAddBadWord = static_cast<std::string* (Sampling::*)()>(&Sampling::add_bad_words);

FieldError SetStop(const json& value, std::string_view path, RequestParts& parts) {
  if (value.is_string()) {
    *parts.sampling.add_stop() = value.get_ref<const std::string&>();
    return std::nullopt;
  }
  if (!value.is_array()) return WrongType(path, "a string or an array of strings");
  return Strings<kAddStop>(value, path, parts);
}

FieldError SetStopTokenIds(const json& value, std::string_view path, RequestParts& parts) {
  return ReadIds(value, path, [&](int64_t id) { parts.sampling.add_stop_token_ids(id); });
}

FieldError SetAllowedTokenIds(const json& value, std::string_view path, RequestParts& parts) {
  if (value.is_array() && value.empty()) {  // proto3 cannot tell it from "all"
    return InvalidParam(std::string(path), Concat(path, " must not be empty"));
  }
  return ReadIds(value, path, [&](int64_t id) { parts.sampling.add_allowed_token_ids(id); });
}

FieldError SetLogitBias(const json& value, std::string_view path, RequestParts& parts) {
  if (!value.is_object()) return WrongType(path, "an object from token ids to numbers");
  for (const auto& [key, bias] : value.get_ref<const json::object_t&>()) {
    int64_t id;
    double number;
    if (!absl::SimpleAtoi(key, &id) || std::to_string(id) != key) {
      return InvalidParam(std::string(path), Concat(path, " must have token ids as names"));
    }
    if (auto error = ReadDouble(bias, Concat(path, ".", id), &number)) return error;
    (*parts.sampling.mutable_logit_bias())[id] = number;
  }
  return std::nullopt;
}

FieldError SetModel(const json& value, std::string_view path, RequestParts& parts) {
  return ReadString(value, path, &parts.model);
}

FieldError SetStream(const json& value, std::string_view path, RequestParts& parts) {
  return ReadBool(value, path, &parts.stream);
}

FieldError SetIncludeUsage(const json& value, std::string_view path, RequestParts& parts) {
  return ReadBool(value, path, &parts.shape.include_usage);
}

FieldError SetContinuousUsage(const json& value, std::string_view path, RequestParts& parts) {
  return ReadBool(value, path, &parts.shape.continuous_usage_stats);
}

FieldError SetStreamOptions(const json& value, std::string_view path, RequestParts& parts) {
  static constexpr Field<RequestParts> kFields[] = {
      {"include_usage", SetIncludeUsage},
      {"continuous_usage_stats", SetContinuousUsage},
      {"include_obfuscation", OnlyBool<false, RequestParts>},
  };
  if (!value.is_object()) return WrongType(path, "an object");
  if (auto error =
          ReadObject<RequestParts>(value, path, kFields, parts.allow_unknown_fields, parts)) {
    return error;
  }
  parts.has_stream_options = parts.shape.include_usage || parts.shape.continuous_usage_stats;
  return std::nullopt;
}

FieldError SetResponseFormat(const json& value, std::string_view path, RequestParts&) {
  if (!value.is_object()) return WrongType(path, "an object");
  const auto type = value.find("type");
  if (type == value.end()) return MissingField(Concat(path, ".type"));
  if (!type->is_string()) return WrongType(Concat(path, ".type"), "a string");
  if (*type != "text" || value.size() != 1) return NotSupported(path);
  return std::nullopt;
}

FieldError RefuseObject(const json& value, std::string_view path, RequestParts&) {
  if (!value.is_object()) return WrongType(path, "an object");
  return NotSupported(path);
}

FieldError SetServiceTier(const json& value, std::string_view path, RequestParts&) {
  if (!value.is_string()) return WrongType(path, "a string");
  if (value != "auto" && value != "default") return NotSupported(path);
  return std::nullopt;
}

constexpr Field<RequestParts> kSharedFields[] = {
    {"model", SetModel},
    // Sampling
    {"max_tokens", Int32<&Sampling::set_max_tokens>},
    {"min_tokens", Int32<&Sampling::set_min_tokens>},
    {"temperature", Double<&Sampling::set_temperature>},
    {"top_p", Double<&Sampling::set_top_p>},
    {"top_k", Int64<&Sampling::set_top_k>},
    {"min_p", Double<&Sampling::set_min_p>},
    {"typical_p", Double<&Sampling::set_typical_p>},
    {"n", Int32<&Sampling::set_n>},
    {"best_of", Int32<&Sampling::set_best_of>},
    {"use_beam_search", Bool<&Sampling::set_use_beam_search>},
    {"length_penalty", Double<&Sampling::set_length_penalty>},
    {"seed", Int64<&Sampling::set_seed>},
    {"stop", SetStop},
    {"stop_token_ids", SetStopTokenIds},
    {"include_stop_str_in_output", Bool<&Sampling::set_include_stop_str_in_output>},
    {"ignore_eos", Bool<&Sampling::set_ignore_eos>},
    {"frequency_penalty", Double<&Sampling::set_frequency_penalty>},
    {"presence_penalty", Double<&Sampling::set_presence_penalty>},
    {"repetition_penalty", Double<&Sampling::set_repetition_penalty>},
    {"logit_bias", SetLogitBias},
    {"bad_words", Strings<kAddBadWord>},
    {"allowed_token_ids", SetAllowedTokenIds},
    {"top_logprobs", Int32<&Sampling::set_top_logprobs>},
    {"prompt_logprobs", Int32<&Sampling::set_prompt_logprobs>},
    {"skip_special_tokens", Bool<&Sampling::set_skip_special_tokens>},
    {"return_token_ids", Bool<&Sampling::set_return_token_ids>},
    {"response_format", SetResponseFormat},
    {"structured_outputs", RefuseObject},
    // About the request
    {"request_id", NonEmptyString<&v1::RequestOptions::mutable_request_id>},
    {"priority", Int32<&v1::RequestOptions::set_priority>},
    {"cache_salt", NonEmptyString<&v1::RequestOptions::mutable_cache_salt>},
    {"truncate_prompt_tokens", Int32<&v1::RequestOptions::set_truncate_prompt_tokens>},
    {"timeout", Double<&v1::RequestOptions::set_timeout>},
    {"stream", SetStream},
    {"stream_options", SetStreamOptions},
    // What OpenAI and vLLM clients may send: hints, and defaults of what we do not have
    {"user", Label<RequestParts>},
    {"safety_identifier", Label<RequestParts>},
    {"prompt_cache_key", Label<RequestParts>},
    {"service_tier", SetServiceTier},
    {"store", OnlyBool<false, RequestParts>},
    {"metadata", OnlyEmptyObject<RequestParts>},
    {"spaces_between_special_tokens", OnlyBool<true, RequestParts>},
    {"return_tokens_as_token_ids", OnlyBool<false, RequestParts>},
    {"kv_transfer_params", OnlyNull<RequestParts>},
    {"logits_processors", OnlyNull<RequestParts>},
};

}  // namespace

absl::Span<const Field<RequestParts>> SharedFields() { return kSharedFields; }

FieldError FinishSharedFields(RequestParts& parts) {
  if (parts.has_stream_options && !parts.stream) {
    return InvalidParam("stream_options", "stream_options needs stream: true");
  }
  ResponseShape& shape = parts.shape;
  const Sampling& sampling = parts.sampling;
  if (sampling.has_n()) shape.n = sampling.n();
  shape.return_token_ids = sampling.return_token_ids();
  shape.prompt_logprobs = sampling.has_prompt_logprobs();
  shape.stop.assign(sampling.stop().begin(), sampling.stop().end());
  return std::nullopt;
}

std::variant<json, ApiError> ParseObject(std::string_view body) {
  auto parsed = ParseJson(body);
  if (const json* document = std::get_if<json>(&parsed); document && !document->is_object()) {
    return InvalidParam("", "The request body must be a JSON object", "invalid_json");
  }
  return parsed;
}

}  // namespace paceline::router
