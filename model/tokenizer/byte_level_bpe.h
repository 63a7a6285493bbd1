// Byte-level BPE: words by a pre-tokenizer, each word's bytes merged by a ranked list of pairs.
// What GPT-2, Llama 3, Qwen and SmolLM use. Owned by Tokenizer. Immutable after construction; any
// thread.
#ifndef PACELINE_MODEL_TOKENIZER_BYTE_LEVEL_BPE_H_
#define PACELINE_MODEL_TOKENIZER_BYTE_LEVEL_BPE_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/tokenizer/merge_symbols.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/text_encoder.h"
#include "model/tokenizer/vocabulary.h"

namespace paceline::model {

class ByteLevelBpe : public TextEncoder {
 public:
  // `is_text[id]`: the token may come out of plain text; merges that lead to others are left out.
  // REQUIRES: ValidateVocabulary(vocabulary) is OK, vocabulary.model is "gpt2".
  ByteLevelBpe(const Vocabulary& vocabulary, const std::vector<bool>& is_text);

  // Bytes that the vocabulary lacks are dropped, as Hugging Face does. Invalid UTF-8 is encoded
  // byte by byte. Qwen 2 text is normalised to NFC first; bytes that are not UTF-8 pass that
  // unchanged.
  void Encode(std::string_view text, std::vector<int32_t>& ids) const override;

 private:
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<uint64_t> heap;
  };

  void EncodeWord(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;
  void MergeWord(std::string_view word, Scratch& scratch, std::vector<int32_t>& ids) const;

  PreTokenizer pre_tokenizer_;
  std::array<int32_t, 256> byte_ids_;                     // -1: the vocabulary lacks the byte
  absl::flat_hash_map<uint64_t, Merge> merges_;           // left id << 32 | right id -> result
  std::string word_bytes_;                                // keys of words_, one after another
  absl::flat_hash_map<std::string_view, int32_t> words_;  // words taken whole, unmerged (Llama 3)
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_BYTE_LEVEL_BPE_H_
