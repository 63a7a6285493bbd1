// Text to token ids and back, as the model's own tokenizer does it.
// Shared by everyone who handles text of one model. Immutable after Create; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_TOKENIZER_H_
#define PACELINE_MODEL_TOKENIZER_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "model/text_span.h"
#include "model/tokenizer/special_matcher.h"
#include "model/tokenizer/text_encoder.h"
#include "model/tokenizer/vocabulary.h"

namespace paceline::model {

struct EncodeOptions {
  // Special tokens in the text become their ids; without it, all of the text counts as untrusted.
  bool parse_special = true;
  // Begin- and end-of-sequence are added where the vocabulary asks for them.
  bool add_special = false;
  // Sorted byte ranges of the text that came from a user. A special token is matched only where all
  // its bytes are outside them; elsewhere its text is plain text, so no control id ever comes out
  // of user content. What lies between two special tokens is one text all the same, so the ids are
  // those of the whole text.
  absl::Span<const TextSpan> untrusted;
};

class Tokenizer {
 public:
  using EncodeOptions = model::EncodeOptions;

  // InvalidArgument, naming the field, for a vocabulary that ValidateVocabulary refuses.
  static absl::StatusOr<std::shared_ptr<const Tokenizer>> Create(Vocabulary vocabulary);
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // Any bytes are text; ids are always below vocab_size(). O(n log n) in text.size().
  //
  // Matched in the text as a whole are control and unknown tokens (special) and user-defined ones.
  // Of the latter, those in <…> or […] mark roles, tools and thoughts, so untrusted text may not
  // spell them either; others, such as runs of spaces, are part of ordinary text.
  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options = {}) const;

  // The text of `ids`, always valid UTF-8 (see Utf8Stream). `skip_special` leaves special tokens
  // out. An id outside the vocabulary has no text. Where the vocabulary adds a space before the
  // text, the first space is not part of it.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const;

  // The bytes that `id` stands for, perhaps part of a character only; empty outside the vocabulary.
  std::string_view TokenBytes(int32_t id) const;
  // What `id` adds to decoded text: TokenBytes, less what `skip_special` and the rule for the first
  // space take away. `at_text_start` says whether any text came before, and is kept up to date.
  std::string_view DecodedBytes(int32_t id, bool skip_special, bool& at_text_start) const;

  // Control and unknown tokens: never in plain text, left out by skip_special.
  bool IsSpecial(int32_t id) const { return HasFlag(id, kSpecial); }
  // The vocabulary's eos and eot, and special tokens that are known to end an answer (<|im_end|>
  // …).
  bool IsEndOfGeneration(int32_t id) const { return HasFlag(id, kEndOfGeneration); }
  int32_t vocab_size() const { return static_cast<int32_t>(vocabulary_.tokens.size()); }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  // The id of a token by its text in the vocabulary ("<|im_end|>", "Ġhello"); nullopt for none.
  std::optional<int32_t> Find(std::string_view token) const;

 private:
  enum Flag : uint8_t { kSpecial = 1, kEndOfGeneration = 2 };

  explicit Tokenizer(Vocabulary vocabulary);
  bool HasFlag(int32_t id, Flag flag) const {
    return id >= 0 && id < vocab_size() && (flags_[id] & flag) != 0;
  }
  TokenType TypeOf(size_t id) const;
  std::string BytesOf(size_t id) const;
  void AddToken(size_t id, std::vector<bool>& is_text);
  void EncodePart(std::string_view text,
                  absl::Span<const TextSpan> untrusted,
                  std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
  absl::flat_hash_map<std::string_view, int32_t> ids_;  // keys point into vocabulary_
  std::vector<uint8_t> flags_;                          // by id: Flags
  std::string bytes_;                                   // TokenBytes of all ids, one after another
  std::vector<uint32_t> byte_ends_;                     // by id: where its bytes end in bytes_
  SpecialMatcher special_;
  std::unique_ptr<TextEncoder> text_encoder_;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_TOKENIZER_H_
