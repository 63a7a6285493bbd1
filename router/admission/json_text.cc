#include "router/admission/json_text.h"

#include <algorithm>

#include "nlohmann/json.hpp"

namespace paceline::router {
namespace {

// Greatest nesting of brackets outside of strings. Before parsing, so that depth is bounded
// whatever the parser does with it.
int32_t NestingDepth(std::string_view text) {
  int32_t depth = 0;
  int32_t deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

// A discarded value stands for text that is no JSON or too deep.
nlohmann::json Parse(std::string_view text, int32_t max_depth) {
  if (NestingDepth(text) > max_depth) return nlohmann::json::value_t::discarded;
  return nlohmann::json::parse(text, /*cb=*/nullptr, /*allow_exceptions=*/false);
}

// What the template is given by the server; a request must not replace it.
constexpr std::string_view kReserved[] = {
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "bos_token",
    "eos_token",
    "chat_template",
    "tokenize",
    "continue_final_message",
};

}  // namespace

bool IsJsonArray(std::string_view text, int32_t max_depth) {
  return Parse(text, max_depth).is_array();
}

std::optional<ApiError> ValidateTemplateKwargs(std::string_view text,
                                               int32_t max_bytes,
                                               int32_t max_depth) {
  constexpr char kField[] = "chat_template_kwargs";
  if (text.empty()) return std::nullopt;
  if (text.size() > static_cast<size_t>(max_bytes)) {
    return InvalidParam(kField, "chat_template_kwargs is too large");
  }
  const nlohmann::json json = Parse(text, max_depth);
  if (!json.is_object()) {
    return InvalidParam(kField, "chat_template_kwargs is not a valid JSON object");
  }
  for (const std::string_view name : kReserved) {
    if (json.contains(name)) {
      return InvalidParam(kField, "chat_template_kwargs must not set the server's own variables");
    }
  }
  return std::nullopt;
}

}  // namespace paceline::router
