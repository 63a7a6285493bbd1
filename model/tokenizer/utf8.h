// UTF-8, strictly (no surrogates, no overlong forms, nothing above U+10FFFF), and what stands in
// for bytes that are not. Stateless but for Utf8Stream, which one thread uses at a time.
#ifndef PACELINE_MODEL_TOKENIZER_UTF8_H_
#define PACELINE_MODEL_TOKENIZER_UTF8_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace paceline::model {

// One character of a text: a code point, or one byte that belongs to none.
struct Utf8Char {
  uint32_t code_point;  // kInvalidByte for a byte that is not part of a valid sequence
  uint32_t bytes;       // 1 to 4
};
inline constexpr uint32_t kInvalidByte = 0xFFFFFFFF;

// The character at `pos`. REQUIRES: pos < text.size().
Utf8Char Utf8At(std::string_view text, size_t pos);

bool IsValidUtf8(std::string_view text);

// Turns a byte stream into valid UTF-8: whole characters pass through, and each maximal invalid
// part becomes one U+FFFD, as Python's bytes.decode("utf-8", "replace") does. The output does not
// depend on how the stream is cut.
class Utf8Stream {
 public:
  // Appends to `out` all text that no later byte can change.
  void Append(std::string_view bytes, std::string& out);
  // The stream ends here: a character that was cut off becomes U+FFFD. Ready for a new stream then.
  void Finish(std::string& out);

 private:
  void AppendByte(uint8_t byte, std::string& out);

  char pending_[4] = {};  // the start of a character, valid so far
  int num_pending_ = 0;
  int num_missing_ = 0;      // bytes that complete it
  uint8_t next_low_ = 0x80;  // what its next byte may be
  uint8_t next_high_ = 0xBF;
};

}  // namespace paceline::model

#endif  // PACELINE_MODEL_TOKENIZER_UTF8_H_
