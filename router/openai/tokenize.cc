// The bodies of /tokenize and /detokenize.
#include <utility>

#include "router/openai/chat_messages.h"
#include "router/openai/requests.h"
#include "router/openai/sampling_fields.h"

namespace paceline::router {
namespace {

using nlohmann::json;

struct TokenizeParts {
  v1::TokenizeRequest request;
  bool has_prompt = false;
  bool allow_unknown_fields = false;
};

template <class Target>
FieldError SetModel(const json& value, std::string_view path, Target& target) {
  return ReadString(value, path, target.request.mutable_model());
}

FieldError SetPrompt(const json& value, std::string_view path, TokenizeParts& parts) {
  parts.has_prompt = true;
  return ReadString(value, path, parts.request.mutable_text());
}

FieldError SetMessages(const json& value, std::string_view path, TokenizeParts& parts) {
  return ReadMessages(value, path, parts.allow_unknown_fields, parts.request.mutable_messages());
}

template <auto kSet>
FieldError Flag(const json& value, std::string_view path, TokenizeParts& parts) {
  bool flag;
  if (auto error = ReadBool(value, path, &flag)) return error;
  (parts.request.*kSet)(flag);
  return std::nullopt;
}

constexpr Field<TokenizeParts> kTokenizeFields[] = {
    {"model", SetModel<TokenizeParts>},
    {"prompt", SetPrompt},
    {"messages", SetMessages},
    {"add_special_tokens", Flag<&v1::TokenizeRequest::set_add_special_tokens>},
    {"add_generation_prompt", Flag<&v1::TokenizeRequest::set_add_generation_prompt>},
    {"return_token_strs", Flag<&v1::TokenizeRequest::set_return_token_strs>},
    {"continue_final_message", OnlyBool<false, TokenizeParts>},
    {"chat_template", OnlyNull<TokenizeParts>},
    {"chat_template_kwargs", OnlyEmptyObject<TokenizeParts>},
    {"tools", OnlyEmptyArray<TokenizeParts>},
    {"mm_processor_kwargs", OnlyNull<TokenizeParts>},
};

struct DetokenizeParts {
  v1::DetokenizeRequest request;
  bool has_tokens = false;
};

FieldError SetTokens(const json& value, std::string_view path, DetokenizeParts& parts) {
  parts.has_tokens = true;
  return ReadIds(value, path, [&](int64_t id) { parts.request.add_token_ids(id); });
}

constexpr Field<DetokenizeParts> kDetokenizeFields[] = {
    {"model", SetModel<DetokenizeParts>},
    {"tokens", SetTokens},
};

}  // namespace

std::variant<v1::TokenizeRequest, ApiError> ParseTokenize(std::string_view body,
                                                          const ParseOptions& options) {
  auto parsed = ParseObject(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  TokenizeParts parts;
  parts.allow_unknown_fields = options.allow_unknown_fields;
  if (auto error = ReadObject<TokenizeParts>(
          std::get<json>(parsed), "", kTokenizeFields, options.allow_unknown_fields, parts)) {
    return std::move(*error);
  }
  const bool has_messages = !parts.request.messages().empty();
  if (!parts.has_prompt && !has_messages) return MissingField("prompt");
  if (parts.has_prompt && has_messages) {
    return InvalidParam("messages", "Only one of prompt and messages may be given");
  }
  return std::move(parts.request);
}

std::variant<v1::DetokenizeRequest, ApiError> ParseDetokenize(std::string_view body,
                                                              const ParseOptions& options) {
  auto parsed = ParseObject(body);
  if (auto* error = std::get_if<ApiError>(&parsed)) return std::move(*error);
  DetokenizeParts parts;
  if (auto error = ReadObject<DetokenizeParts>(
          std::get<json>(parsed), "", kDetokenizeFields, options.allow_unknown_fields, parts)) {
    return std::move(*error);
  }
  if (!parts.has_tokens) return MissingField("tokens");
  return std::move(parts.request);
}

}  // namespace paceline::router
