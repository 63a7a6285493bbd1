// Small vocabularies for the tests of router/text.
#ifndef PACELINE_TESTS_ROUTER_TEXT_VOCABULARIES_H_
#define PACELINE_TESTS_ROUTER_TEXT_VOCABULARIES_H_

#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/byte_level.h"
#include "model/tokenizer/vocabulary.h"

namespace paceline::router {

// GPT-2 style: ids 0..255 are the bytes, then `extra` (plain bytes), then "<|im_start|>",
// "<|im_end|>" as control tokens; the last is end-of-sequence.
inline model::Vocabulary ByteVocabulary(const std::vector<std::string>& extra = {}) {
  model::Vocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.tokens.push_back(model::ByteLevelChar(static_cast<uint8_t>(byte)));
  }
  for (const std::string& text : extra) {
    std::string token;
    for (char c : text) token += model::ByteLevelChar(static_cast<uint8_t>(c));
    vocabulary.tokens.push_back(token);
  }
  vocabulary.token_types.assign(vocabulary.tokens.size(), model::kNormalToken);
  for (const char* control : {"<|im_start|>", "<|im_end|>"}) {
    vocabulary.tokens.push_back(control);
    vocabulary.token_types.push_back(model::kControlToken);
  }
  vocabulary.bos_id = static_cast<int32_t>(vocabulary.tokens.size()) - 2;
  vocabulary.eos_id = static_cast<int32_t>(vocabulary.tokens.size()) - 1;
  vocabulary.context_length = 2048;
  return vocabulary;
}

}  // namespace paceline::router

#endif  // PACELINE_TESTS_ROUTER_TEXT_VOCABULARIES_H_
