// Names of the special tokens that models end an answer with. Stateless; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_END_TOKENS_H_
#define PACELINE_MODEL_TOKENIZER_END_TOKENS_H_

#include <string_view>

#include "absl/types/span.h"

namespace paceline::model {

// Texts of tokens that end a turn, the most specific first.
absl::Span<const std::string_view> EndOfTurnTexts();

// Whether a special token of this text ends a turn or a document.
bool IsEndTokenText(std::string_view token);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_END_TOKENS_H_
