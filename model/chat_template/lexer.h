// Turns template source into tokens, with jinja2's whitespace rules as Hugging Face sets them
// (trim_blocks, lstrip_blocks, no trailing newline). Stateless; any thread.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_LEXER_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_LEXER_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace paceline::model {

enum class TokenType : uint8_t {
  kData,  // literal text
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,  // text: the value, escapes resolved
  kInt,
  kFloat,
  kOperator,  // text: the operator itself
  kEnd,
};

struct Token {
  TokenType type = TokenType::kEnd;
  int line = 1;
  std::string text;
  int64_t int_value = 0;
  double float_value = 0;
};

// The tokens, closed by one kEnd; InvalidArgument naming the line on a lexical error.
absl::StatusOr<std::vector<Token>> Tokenize(std::string_view source);

// InvalidArgument "line N: message".
absl::Status SyntaxError(int line, std::string_view message);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_LEXER_H_
