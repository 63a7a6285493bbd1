// The part of a tokenizer that turns plain text, with no special tokens in it, into ids.
// Owned by Tokenizer. Immutable after construction; any thread.
#ifndef PACELINE_MODEL_TOKENIZER_TEXT_ENCODER_H_
#define PACELINE_MODEL_TOKENIZER_TEXT_ENCODER_H_

#include <cstdint>
#include <string_view>
#include <vector>

namespace paceline::model {

class TextEncoder {
 public:
  virtual ~TextEncoder() = default;

  // Appends the ids of `text`, which may be any bytes. Time is O(n log n) in its length.
  virtual void Encode(std::string_view text, std::vector<int32_t>& ids) const = 0;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_TEXT_ENCODER_H_
