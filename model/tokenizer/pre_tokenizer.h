// Cuts text into the words that BPE works on, exactly as the regular expressions of Hugging Face's
// pre-tokenizers do, in linear time. Stateless; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_PRE_TOKENIZER_H_
#define PACELINE_MODEL_TOKENIZER_PRE_TOKENIZER_H_

#include <cstddef>
#include <optional>
#include <string_view>

#include "absl/functional/function_ref.h"

namespace paceline::model {

enum class PreTokenizer {
  kGpt2,    // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  kSmollm,  // each number character alone, then kGpt2 on what lies between them
  kLlama3,  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
            //  ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  kQwen2,   // kLlama3 with \p{N} instead of \p{N}{1,3}
};

// The pre-tokenizer that GGUF calls `name`; nullopt for a name that is not known.
std::optional<PreTokenizer> PreTokenizerByName(std::string_view name);

// Calls `word` with each word of `text`, in order; together they are the whole text. A byte that is
// not part of valid UTF-8 counts as one character that is neither letter, number nor space.
void SplitWords(PreTokenizer pre_tokenizer,
                std::string_view text,
                absl::FunctionRef<void(std::string_view)> word);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_PRE_TOKENIZER_H_
