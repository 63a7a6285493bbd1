// Parses template source into an Ast. Stateless; any thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_PARSER_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_PARSER_H_

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "model/chat_template/ast.h"

namespace paceline::model {

// InvalidArgument "line N: …" for a syntax error, an unknown tag, filter or test, and for nesting
// deeper than any real template has.
absl::StatusOr<std::unique_ptr<Ast>> ParseTemplate(std::string_view source);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_PARSER_H_
