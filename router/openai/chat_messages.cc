#include "router/openai/chat_messages.h"

#include <string>
#include <utility>

#include "router/openai/requests.h"
#include "router/openai/sampling_fields.h"

namespace paceline::router {
namespace {

using nlohmann::json;

struct MessageParts {
  bool allow_unknown_fields = false;
  v1::ChatMessage message;
  bool has_content = false;
};

struct TextPart {
  std::string text;
  bool is_text = false;
  bool has_text = false;
};

FieldError SetPartType(const json& value, std::string_view path, TextPart& part) {
  if (!value.is_string()) return WrongType(path, "a string");
  if (value != "text") return NotSupported(path);
  part.is_text = true;
  return std::nullopt;
}

FieldError SetPartText(const json& value, std::string_view path, TextPart& part) {
  part.has_text = true;
  return ReadString(value, path, &part.text);
}

// Type first: a part of another type has other fields, and its type is what is wrong with it.
FieldError ReadPart(const json& value,
                    std::string_view path,
                    bool allow_unknown_fields,
                    std::string* text) {
  static constexpr Field<TextPart> kFields[] = {{"type", SetPartType}, {"text", SetPartText}};
  if (!value.is_object()) return WrongType(path, "an object");
  TextPart part;
  const auto type = value.find("type");
  const std::string type_path = Concat(path, ".type");
  if (type == value.end()) return MissingField(type_path);
  if (auto error = SetPartType(*type, type_path, part)) return error;
  if (auto error = ReadObject<TextPart>(value, path, kFields, allow_unknown_fields, part)) {
    return error;
  }
  if (!part.has_text) return MissingField(Concat(path, ".text"));
  *text = std::move(part.text);
  return std::nullopt;
}

FieldError SetContent(const json& value, std::string_view path, MessageParts& parts) {
  parts.has_content = true;
  if (value.is_string()) {
    parts.message.set_content(value.get_ref<const std::string&>());
    return std::nullopt;
  }
  if (!value.is_array()) return WrongType(path, "a string or an array of text parts");
  if (value.size() > kMaxContentParts) return OutOfRange(path);
  std::string* content = parts.message.mutable_content();
  for (size_t i = 0; i < value.size(); ++i) {
    std::string text;
    if (auto error =
            ReadPart(value[i], Concat(path, "[", i, "]"), parts.allow_unknown_fields, &text)) {
      return error;
    }
    if (i > 0) content->push_back('\n');
    content->append(text);
  }
  return std::nullopt;
}

template <auto kMutable>
FieldError SetString(const json& value, std::string_view path, MessageParts& parts) {
  return ReadString(value, path, (parts.message.*kMutable)());
}

FieldError SetRole(const json& value, std::string_view path, MessageParts& parts) {
  std::string role;
  if (auto error = ReadString(value, path, &role)) return error;
  for (const std::string_view known : {"system", "developer", "user", "assistant", "tool"}) {
    if (role == known) {
      parts.message.set_role(std::move(role));
      return std::nullopt;
    }
  }
  return InvalidParam(std::string(path),
                      Concat(path, " must be system, developer, user, assistant or tool"));
}

FieldError SetToolCalls(const json& value, std::string_view path, MessageParts& parts) {
  if (!value.is_array()) return WrongType(path, "an array");
  if (value.size() > kMaxTools) return OutOfRange(path);
  for (size_t i = 0; i < value.size(); ++i) {
    if (!value[i].is_object()) return WrongType(Concat(path, "[", i, "]"), "an object");
  }
  if (!value.empty()) parts.message.set_tool_calls_json(JsonText(value));
  return std::nullopt;
}

// The later rows are what official clients send back of an answer.
constexpr Field<MessageParts> kMessageFields[] = {
    {"role", SetRole},
    {"content", SetContent},
    {"name", SetString<&v1::ChatMessage::mutable_name>},
    {"tool_call_id", SetString<&v1::ChatMessage::mutable_tool_call_id>},
    {"tool_calls", SetToolCalls},
    {"refusal", OnlyNull<MessageParts>},
    {"audio", OnlyNull<MessageParts>},
    {"function_call", OnlyNull<MessageParts>},
    {"annotations", OnlyEmptyArray<MessageParts>},
    {"reasoning", OnlyNull<MessageParts>},
    {"reasoning_content", OnlyNull<MessageParts>},
};

}  // namespace

FieldError ReadMessages(const json& value,
                        std::string_view path,
                        bool allow_unknown_fields,
                        google::protobuf::RepeatedPtrField<v1::ChatMessage>* out) {
  if (!value.is_array()) return WrongType(path, "an array of messages");
  if (value.empty()) return InvalidParam(std::string(path), Concat(path, " is empty"));
  if (value.size() > kMaxMessages) {
    return InvalidParam(
        std::string(path), Concat(path, " has more than 4096 elements"), "out_of_range");
  }
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string element = Concat(path, "[", i, "]");
    if (!value[i].is_object()) return WrongType(element, "an object");
    MessageParts parts;
    parts.allow_unknown_fields = allow_unknown_fields;
    if (auto error = ReadObject<MessageParts>(
            value[i], element, kMessageFields, allow_unknown_fields, parts)) {
      return error;
    }
    if (parts.message.role().empty()) return MissingField(Concat(element, ".role"));
    if (!parts.has_content && parts.message.role() != "assistant") {
      return MissingField(Concat(element, ".content"));
    }
    *out->Add() = std::move(parts.message);
  }
  return std::nullopt;
}

}  // namespace paceline::router
