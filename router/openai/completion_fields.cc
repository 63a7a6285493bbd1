// The body of /v1/completions.
#include <algorithm>
#include <utility>

#include "router/openai/requests.h"
#include "router/openai/sampling_fields.h"

namespace paceline::router {
namespace {

using nlohmann::json;

struct CompletionParts : RequestParts {
  std::vector<std::variant<std::string, v1::TokenIds>> prompts;
  std::optional<bool> add_special_tokens;
};

FieldError AddTokenIds(const json& value, std::string_view path, CompletionParts& parts) {
  if (value.empty()) return InvalidParam(std::string(path), Concat(path, " is empty"));
  v1::TokenIds ids;
  ids.mutable_ids()->Reserve(static_cast<int>(value.size()));
  if (auto error = ReadIds(value, path, [&](int64_t id) { ids.add_ids(id); })) return error;
  parts.prompts.emplace_back(std::move(ids));
  return std::nullopt;
}

// A string, token ids, or an array of one of them.
FieldError SetPrompt(const json& value, std::string_view path, CompletionParts& parts) {
  if (value.is_string()) {
    parts.prompts.emplace_back(value.get_ref<const std::string&>());
    return std::nullopt;
  }
  constexpr std::string_view kExpected =
      "a string, an array of strings, an array of token ids or an array of arrays of token ids";
  if (!value.is_array()) return WrongType(path, kExpected);
  if (value.empty()) return InvalidParam(std::string(path), "prompt is empty");
  if (value[0].is_number()) return AddTokenIds(value, path, parts);
  if (!value[0].is_string() && !value[0].is_array()) {
    return WrongType(Concat(path, "[0]"), kExpected);
  }
  if (value.size() > kMaxPrompts) {
    return InvalidParam(std::string(path), "prompt has more than 128 elements", "out_of_range");
  }
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string element = Concat(path, "[", i, "]");
    if (value[i].type() != value[0].type()) {
      return WrongType(element, "of the same type as the first element");
    }
    if (value[i].is_string()) {
      parts.prompts.emplace_back(value[i].get_ref<const std::string&>());
    } else if (auto error = AddTokenIds(value[i], element, parts)) {
      return error;
    }
  }
  return std::nullopt;
}

FieldError SetLogprobs(const json& value, std::string_view path, CompletionParts& parts) {
  int32_t count;
  if (auto error = ReadInt32(value, path, &count)) return error;
  parts.sampling.set_logprobs(count);
  parts.shape.logprobs = true;
  parts.shape.num_top_logprobs = count;
  return std::nullopt;
}

FieldError SetEcho(const json& value, std::string_view path, CompletionParts& parts) {
  return ReadBool(value, path, &parts.shape.echo);
}

FieldError SetAddSpecialTokens(const json& value, std::string_view path, CompletionParts& parts) {
  return ReadBool(value, path, &parts.add_special_tokens.emplace());
}

FieldError SetSuffix(const json& value, std::string_view path, CompletionParts&) {
  std::string suffix;
  if (auto error = ReadString(value, path, &suffix)) return error;
  if (!suffix.empty()) return NotSupported(path);
  return std::nullopt;
}

constexpr Field<CompletionParts> kCompletionFields[] = {
    {"prompt", SetPrompt},
    {"logprobs", SetLogprobs},
    {"echo", SetEcho},
    {"add_special_tokens", SetAddSpecialTokens},
    {"suffix", SetSuffix},
    {"prompt_embeds", OnlyNull<CompletionParts>},
};

v1::GenerateRequest MakeCall(const CompletionParts& parts) {
  v1::GenerateRequest call;
  call.set_model(parts.model);
  *call.mutable_sampling() = parts.sampling;
  *call.mutable_options() = parts.options;
  if (parts.shape.echo) call.set_echo(true);
  if (parts.add_special_tokens) call.set_add_special_tokens(*parts.add_special_tokens);
  return call;
}

}  // namespace

std::variant<InferenceRequest, ApiError> ParseCompletion(std::string_view body,
                                                         const ParseOptions& options) {
  auto parsed = ParseObject(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  CompletionParts parts;
  parts.allow_unknown_fields = options.allow_unknown_fields;
  if (auto error = ReadObject<CompletionParts, RequestParts>(std::get<json>(parsed),
                                                             "",
                                                             kCompletionFields,
                                                             SharedFields(),
                                                             options.allow_unknown_fields,
                                                             parts)) {
    return std::move(*error);
  }
  if (parts.prompts.empty()) return MissingField("prompt");
  if (auto error = FinishSharedFields(parts)) return std::move(*error);
  if (parts.shape.echo && parts.shape.logprobs && !parts.shape.prompt_logprobs) {
    // OpenAI shows the log-probabilities of echoed tokens as well.
    parts.sampling.set_prompt_logprobs(parts.sampling.logprobs());
  }
  parts.shape.num_prompts = static_cast<int32_t>(parts.prompts.size());

  InferenceRequest request{.shape = parts.shape, .stream = parts.stream};
  request.calls.reserve(parts.prompts.size());
  for (auto& prompt : parts.prompts) {
    v1::GenerateRequest call = MakeCall(parts);
    if (auto* text = std::get_if<std::string>(&prompt)) {
      call.set_text(std::move(*text));
    } else {
      *call.mutable_token_ids() = std::move(std::get<v1::TokenIds>(prompt));
    }
    request.calls.emplace_back(std::move(call));
  }
  return request;
}

std::vector<std::string_view> CompletionFieldNames() {
  std::vector<std::string_view> names;
  for (const auto& field : kCompletionFields) names.push_back(field.name);
  for (const auto& field : SharedFields()) names.push_back(field.name);
  return names;
}

std::string AssignRequestIds(std::string id, InferenceRequest& request) {
  constexpr size_t kRoomForNumber = 4;  // "-127"
  constexpr size_t kMaxBytes = 128;
  const auto options = [](auto& call) -> v1::RequestOptions& {
    return std::visit([](auto& body) -> v1::RequestOptions& { return *body.mutable_options(); },
                      call);
  };
  const std::string& own = options(request.calls.front()).request_id();
  if (!own.empty()) id = own;
  for (size_t i = 0; i < request.calls.size(); ++i) {
    std::string call_id = id;
    if (request.calls.size() > 1 && call_id.size() <= kMaxBytes) {
      call_id.resize(std::min(call_id.size(), kMaxBytes - kRoomForNumber));
      call_id.append("-").append(std::to_string(i));
    }
    options(request.calls[i]).set_request_id(std::move(call_id));
  }
  return id;
}

}  // namespace paceline::router
