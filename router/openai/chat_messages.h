// Messages of a chat body. Stateless; any thread.
#ifndef PACELINE_ROUTER_OPENAI_CHAT_MESSAGES_H_
#define PACELINE_ROUTER_OPENAI_CHAT_MESSAGES_H_

#include <string_view>

#include "google/protobuf/repeated_field.h"
#include "proto/paceline/v1/inference.pb.h"
#include "router/openai/fields.h"

namespace paceline::router {

// Reads an array of 1 to 4096 messages. Text parts of one message are joined by line feeds.
FieldError ReadMessages(const nlohmann::json& value,
                        std::string_view path,
                        bool allow_unknown_fields,
                        google::protobuf::RepeatedPtrField<v1::ChatMessage>* out);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_OPENAI_CHAT_MESSAGES_H_
