#include "model/tokenizer/end_tokens.h"

#include <algorithm>

namespace paceline::model {
namespace {

constexpr std::string_view kEndOfTurn[] = {
    "<|eot_id|>",       // Llama 3
    "<|im_end|>",       // ChatML: Qwen, SmolLM
    "<|end|>",          // Phi 3
    "<end_of_turn>",    // Gemma
    "<|end_of_turn|>",  // OpenChat
};

constexpr std::string_view kEndOfText[] = {
    "<|eom_id|>",  // Llama 3: end of a message that calls a tool
    "<|endoftext|>",
    "<|end_of_text|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",  // DeepSeek
};

bool Contains(absl::Span<const std::string_view> texts, std::string_view token) {
  return std::find(texts.begin(), texts.end(), token) != texts.end();
}

}  // namespace

absl::Span<const std::string_view> EndOfTurnTexts() { return kEndOfTurn; }

bool IsEndTokenText(std::string_view token) {
  return Contains(kEndOfTurn, token) || Contains(kEndOfText, token);
}

}  // namespace paceline::model
