// SentencePiece's BPE: the characters of the text (spaces written as U+2581), merged into the
// pieces of highest score; characters without a piece become byte tokens. What Llama 2 and Mistral
// use. Owned by Tokenizer. Immutable after construction; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_SENTENCEPIECE_BPE_H_
#define PACELINE_MODEL_TOKENIZER_SENTENCEPIECE_BPE_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "model/tokenizer/merge_symbols.h"
#include "model/tokenizer/text_encoder.h"
#include "model/tokenizer/vocabulary.h"

namespace paceline::model {

// The byte of a byte token's text, "<0x41>"; -1 when it is not of that form.
int ByteOfPiece(std::string_view piece);

// `piece` as text: with a space for each U+2581.
std::string UnescapePiece(std::string_view piece);

class SentencePieceBpe : public TextEncoder {
 public:
  // `is_text[id]`: the token may be merged from plain text.
  // REQUIRES: ValidateVocabulary(vocabulary) is OK, vocabulary.model is "llama", and it stays where
  // it is for as long as this lives.
  SentencePieceBpe(const Vocabulary& vocabulary, const std::vector<bool>& is_text);

  // A character without a piece becomes the tokens of its bytes; where the vocabulary lacks one of
  // those, a run of such characters becomes one unknown token, or nothing without that. Each byte
  // of invalid UTF-8 is a character of its own.
  void Encode(std::string_view text, std::vector<int32_t>& ids) const override;

 private:
  void EncodePart(std::string_view text, std::vector<int32_t>& ids) const;
  Merge FindMerge(std::string_view text, const Symbol& left, const Symbol& right) const;
  // Appends the byte tokens of a character; false, and nothing appended, when one is missing.
  bool AppendByteTokens(std::string_view character, std::vector<int32_t>& ids) const;

  bool add_space_prefix_;
  int32_t unk_id_;
  size_t max_piece_bytes_ = 0;
  std::array<int32_t, 256> byte_ids_;  // -1: the vocabulary lacks the byte
  std::vector<uint32_t> ranks_;        // by id: 0 for the highest score, equal for equal scores
  absl::flat_hash_map<std::string_view, int32_t> pieces_;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_SENTENCEPIECE_BPE_H_
