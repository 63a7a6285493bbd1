// Chat messages as the JSON that chat templates expect. Stateless; any thread.
#ifndef PACELINE_ROUTER_TEXT_CHAT_JSON_H_
#define PACELINE_ROUTER_TEXT_CHAT_JSON_H_

#include <optional>
#include <string_view>
#include <variant>

#include "google/protobuf/repeated_field.h"
#include "nlohmann/json.hpp"
#include "proto/paceline/v1/inference.pb.h"
#include "router/core/api_error.h"

namespace paceline::router {

// The JSON value of `text`; nullopt when it is not well-formed or nested more than 64 deep.
std::optional<nlohmann::ordered_json> ParseJson(std::string_view text);

// One object a message: role, content, and name, tool_call_id, tool_calls where they are set. The
// arguments of a tool call are text in the API and an object for templates: they are parsed.
// Error: tool_calls that are not a JSON array, or arguments that are not a JSON object.
std::variant<nlohmann::ordered_json, ApiError> MessagesJson(
    const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_TEXT_CHAT_JSON_H_
