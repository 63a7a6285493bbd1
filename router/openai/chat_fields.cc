// The body of /v1/chat/completions.
#include <utility>

#include "router/openai/chat_messages.h"
#include "router/openai/requests.h"
#include "router/openai/sampling_fields.h"

namespace paceline::router {
namespace {

using nlohmann::json;

struct ChatParts : RequestParts {
  v1::ChatRequest call;
  std::optional<int32_t> max_completion_tokens;
};

FieldError SetMessages(const json& value, std::string_view path, ChatParts& parts) {
  return ReadMessages(value, path, parts.allow_unknown_fields, parts.call.mutable_messages());
}

FieldError SetMaxCompletionTokens(const json& value, std::string_view path, ChatParts& parts) {
  return ReadInt32(value, path, &parts.max_completion_tokens.emplace());
}

FieldError SetLogprobs(const json& value, std::string_view path, ChatParts& parts) {
  if (auto error = ReadBool(value, path, &parts.shape.logprobs)) return error;
  parts.call.set_logprobs(parts.shape.logprobs);
  return std::nullopt;
}

FieldError SetTools(const json& value, std::string_view path, ChatParts& parts) {
  if (!value.is_array()) return WrongType(path, "an array");
  if (value.size() > kMaxTools) {
    return InvalidParam(std::string(path), "tools has more than 128 elements", "out_of_range");
  }
  for (size_t i = 0; i < value.size(); ++i) {
    if (!value[i].is_object()) return WrongType(Concat(path, "[", i, "]"), "an object");
  }
  if (!value.empty()) parts.call.set_tools_json(JsonText(value));
  return std::nullopt;
}

FieldError SetToolChoice(const json& value, std::string_view path, ChatParts&) {
  if (value.is_object()) return NotSupported(path);
  if (!value.is_string()) return WrongType(path, "a string or an object");
  if (value != "none" && value != "auto") return NotSupported(path);
  return std::nullopt;
}

FieldError SetTemplateKwargs(const json& value, std::string_view path, ChatParts& parts) {
  if (!value.is_object()) return WrongType(path, "an object");
  if (!value.empty()) parts.call.set_chat_template_kwargs_json(JsonText(value));
  return std::nullopt;
}

FieldError SetAddGenerationPrompt(const json& value, std::string_view path, ChatParts& parts) {
  bool flag;
  if (auto error = ReadBool(value, path, &flag)) return error;
  parts.call.set_add_generation_prompt(flag);
  return std::nullopt;
}

FieldError SetModalities(const json& value, std::string_view path, ChatParts&) {
  if (!value.is_array()) return WrongType(path, "an array of strings");
  if (value != json::array({"text"})) return NotSupported(path);
  return std::nullopt;
}

// Strings of which only one value is what we do anyway.
FieldError SetFunctionCall(const json& value, std::string_view path, ChatParts&) {
  if (value.is_object()) return NotSupported(path);
  if (!value.is_string()) return WrongType(path, "a string or an object");
  if (value != "none") return NotSupported(path);
  return std::nullopt;
}
FieldError SetVerbosity(const json& value, std::string_view path, ChatParts&) {
  if (!value.is_string()) return WrongType(path, "a string");
  if (value != "medium") return NotSupported(path);
  return std::nullopt;
}

FieldError RefuseString(const json& value, std::string_view path, ChatParts&) {
  if (!value.is_string()) return WrongType(path, "a string");
  return NotSupported(path);
}

constexpr Field<ChatParts> kChatFields[] = {
    {"messages", SetMessages},
    {"max_completion_tokens", SetMaxCompletionTokens},
    {"logprobs", SetLogprobs},
    {"echo", OnlyBool<false, ChatParts>},
    {"tools", SetTools},
    {"tool_choice", SetToolChoice},
    {"parallel_tool_calls", AnyBool<ChatParts>},
    {"functions", OnlyEmptyArray<ChatParts>},
    {"function_call", SetFunctionCall},
    {"chat_template", RefuseString},
    {"chat_template_kwargs", SetTemplateKwargs},
    {"add_generation_prompt", SetAddGenerationPrompt},
    {"continue_final_message", OnlyBool<false, ChatParts>},
    {"add_special_tokens", OnlyBool<false, ChatParts>},
    {"include_reasoning", OnlyBool<true, ChatParts>},
    {"documents", OnlyEmptyArray<ChatParts>},
    {"modalities", SetModalities},
    {"verbosity", SetVerbosity},
    {"reasoning_effort", RefuseString},
    {"audio", OnlyNull<ChatParts>},
    {"prediction", OnlyNull<ChatParts>},
    {"web_search_options", OnlyNull<ChatParts>},
    {"mm_processor_kwargs", OnlyNull<ChatParts>},
};

}  // namespace

std::variant<InferenceRequest, ApiError> ParseChatCompletion(std::string_view body,
                                                             const ParseOptions& options) {
  auto parsed = ParseObject(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  ChatParts parts;
  parts.allow_unknown_fields = options.allow_unknown_fields;
  if (auto error = ReadObject<ChatParts, RequestParts>(std::get<json>(parsed),
                                                       "",
                                                       kChatFields,
                                                       SharedFields(),
                                                       options.allow_unknown_fields,
                                                       parts)) {
    return std::move(*error);
  }
  if (parts.call.messages().empty()) return MissingField("messages");
  if (auto error = FinishSharedFields(parts)) return std::move(*error);
  if (parts.max_completion_tokens) {
    if (parts.sampling.has_max_tokens() &&
        parts.sampling.max_tokens() != *parts.max_completion_tokens) {
      return InvalidParam("max_completion_tokens",
                          "max_completion_tokens and max_tokens must not differ");
    }
    parts.sampling.set_max_tokens(*parts.max_completion_tokens);
  }
  parts.shape.is_chat = true;
  parts.shape.num_top_logprobs = parts.sampling.top_logprobs();

  parts.call.set_model(std::move(parts.model));
  *parts.call.mutable_sampling() = std::move(parts.sampling);
  *parts.call.mutable_options() = std::move(parts.options);
  InferenceRequest request{.shape = std::move(parts.shape), .stream = parts.stream};
  request.calls.emplace_back(std::move(parts.call));
  return request;
}

std::vector<std::string_view> ChatCompletionFieldNames() {
  std::vector<std::string_view> names;
  for (const auto& field : kChatFields) names.push_back(field.name);
  for (const auto& field : SharedFields()) names.push_back(field.name);
  return names;
}

}  // namespace paceline::router
