// UTF-8 and character classes as Python's str sees them. Stateless; any thread. Bytes that are not
// valid UTF-8 count as one code point each, so every function is total.
#ifndef PACELINE_MODEL_CHAT_TEMPLATE_UNICODE_H_
#define PACELINE_MODEL_CHAT_TEMPLATE_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace paceline::model {

struct CodePoint {
  int32_t value = -1;  // -1 for a byte that starts no valid sequence
  size_t bytes = 1;
};

// REQUIRES: pos < text.size().
CodePoint DecodeCodePoint(std::string_view text, size_t pos);
// Where the code point that ends just before `pos` begins. REQUIRES: 0 < pos <= text.size().
size_t PreviousCodePoint(std::string_view text, size_t pos);
size_t CountCodePoints(std::string_view text);
// Replaces lone surrogates and out-of-range values by U+FFFD.
void AppendUtf8(int32_t code_point, std::string* out);

// The first place at or after `from`, or the last one, where `needle` stands in `text`; npos when
// nowhere. In time linear in the text, whatever the needle.
size_t FindBytes(std::string_view text, std::string_view needle, size_t from);
size_t FindLastBytes(std::string_view text, std::string_view needle);

// str.isspace, isalpha, isdigit, isalnum, isprintable, islower, isupper of one code point.
bool IsSpace(int32_t c);
bool IsAlpha(int32_t c);
bool IsDigit(int32_t c);
bool IsAlnum(int32_t c);
bool IsPrintable(int32_t c);
bool IsLower(int32_t c);
bool IsUpper(int32_t c);
bool IsTitle(int32_t c);

// Case mapping of one code point, appended as UTF-8 (one code point may become two: ß -> SS).
void AppendUpper(int32_t c, std::string* out);
void AppendLower(int32_t c, std::string* out);
void AppendTitle(int32_t c, std::string* out);

// Whether `c` ends a line for str.splitlines.
bool IsLineBreak(int32_t c);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CHAT_TEMPLATE_UNICODE_H_
