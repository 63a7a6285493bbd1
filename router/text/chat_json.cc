#include "router/text/chat_json.h"

#include <string>
#include <utility>

namespace paceline::router {
namespace {

using nlohmann::ordered_json;

constexpr int kMaxDepth = 64;

// False when the arguments are not an object.
bool ParseArguments(ordered_json& tool_call) {
  if (!tool_call.is_object()) return false;
  const auto function = tool_call.find("function");
  if (function == tool_call.end() || !function->is_object()) return false;
  ordered_json& arguments = (*function)["arguments"];
  if (arguments.is_null()) arguments = ordered_json::object();
  if (!arguments.is_string()) return arguments.is_object();
  const std::string text = arguments.get<std::string>();
  std::optional<ordered_json> parsed =
      text.empty() ? std::optional(ordered_json::object()) : ParseJson(text);
  if (!parsed || !parsed->is_object()) return false;
  arguments = *std::move(parsed);
  return true;
}

// nullopt: not an array of function calls.
std::optional<ordered_json> ToolCalls(std::string_view text) {
  std::optional<ordered_json> calls = ParseJson(text);
  if (!calls || !calls->is_array()) return std::nullopt;
  for (ordered_json& call : *calls) {
    if (!ParseArguments(call)) return std::nullopt;
  }
  return calls;
}

}  // namespace

std::optional<ordered_json> ParseJson(std::string_view text) {
  bool too_deep = false;
  const auto watch_depth = [&](int depth, ordered_json::parse_event_t, ordered_json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;  // false drops the value
  };
  ordered_json value = ordered_json::parse(text, watch_depth, /*allow_exceptions=*/false);
  if (too_deep || value.is_discarded()) return std::nullopt;
  return value;
}

std::variant<ordered_json, ApiError> MessagesJson(
    const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) {
  ordered_json list = ordered_json::array();
  for (const v1::ChatMessage& message : messages) {
    ordered_json item = {{"role", message.role()}, {"content", message.content()}};
    if (!message.name().empty()) item["name"] = message.name();
    if (!message.tool_call_id().empty()) item["tool_call_id"] = message.tool_call_id();
    if (!message.tool_calls_json().empty()) {
      std::optional<ordered_json> calls = ToolCalls(message.tool_calls_json());
      if (!calls) {
        return InvalidParam("messages",
                            "tool_calls must be an array of function calls whose arguments are a "
                            "JSON object");
      }
      if (!calls->empty()) item["tool_calls"] = *std::move(calls);
    }
    list.push_back(std::move(item));
  }
  return list;
}

}  // namespace paceline::router
