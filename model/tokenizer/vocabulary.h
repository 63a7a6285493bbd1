// Everything about a model's text that a router needs: tokens, merges, special ids, chat template.
// A plain value: read from a model file or received over the wire, then given to Tokenizer::Create,
// which owns it from there. Any thread, like any value.
#ifndef PACELINE_MODEL_TOKENIZER_VOCABULARY_H_
#define PACELINE_MODEL_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace paceline::model {

// The values of Vocabulary::token_types, as GGUF numbers them.
enum TokenType : int32_t {
  kNormalToken = 1,
  kUnknownToken = 2,
  kControlToken = 3,
  kUserDefinedToken = 4,
  kUnusedToken = 5,
  kByteToken = 6,
};

// Limits of a vocabulary, for model files and for what comes over the wire.
inline constexpr size_t kMaxVocabularyTokens = size_t{1} << 20;
inline constexpr size_t kMaxVocabularyMerges = size_t{1} << 22;
inline constexpr size_t kMaxTokenBytes = 4096;
inline constexpr size_t kMaxVocabularyBytes = size_t{256} << 20;  // tokens and merges together
inline constexpr size_t kMaxChatTemplateBytes = size_t{1} << 20;

struct Vocabulary {
  std::string model;  // "gpt2": byte-level BPE; "llama": SentencePiece-style BPE with byte fallback
  std::string pre;    // pre-tokenizer: default, gpt-2, smollm, llama-bpe, qwen2 ("llama": unused)
  std::vector<std::string> tokens;   // text by id; byte-level characters (gpt2) or pieces (llama)
  std::vector<float> scores;         // by id, higher merges first; "llama" only
  std::vector<int32_t> token_types;  // TokenType by id; empty: all normal
  std::vector<std::string> merges;   // "left right", best first; "gpt2" only
  int32_t bos_id = -1;               // -1: the model has none (all ids here)
  int32_t eos_id = -1;
  int32_t eot_id = -1;  // end of turn
  int32_t unk_id = -1;
  int32_t pad_id = -1;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;  // "llama" only: text starts as if a space stood before it
  std::string chat_template;      // Jinja source; empty: none
  int32_t context_length = 0;     // tokens; 0: unknown
};

// Whether `vocabulary` is one that Tokenizer::Create can serve. InvalidArgument names the field
// with the suffix of its GGUF key ("merges[17]: …"); never copies file text into the message.
absl::Status ValidateVocabulary(const Vocabulary& vocabulary);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_VOCABULARY_H_
