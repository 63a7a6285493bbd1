#include "model/chat_template/unicode.h"

#include <utf8proc.h>

#include <cstring>

namespace paceline::model {

CodePoint DecodeCodePoint(std::string_view text, size_t pos) {
  const auto first = static_cast<unsigned char>(text[pos]);
  if (first < 0x80) return {first, 1};
  const auto continuation = [&text](size_t at) {
    return at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80;
  };
  if (first >= 0xC2 && first < 0xE0 && continuation(pos + 1)) {
    return {(first & 0x1F) << 6 | (text[pos + 1] & 0x3F), 2};
  }
  if (first > 0xE0 && first < 0xED && continuation(pos + 1) && continuation(pos + 2)) {
    return {(first & 0x0F) << 12 | (text[pos + 1] & 0x3F) << 6 | (text[pos + 2] & 0x3F), 3};
  }
  utf8proc_int32_t value = -1;
  const utf8proc_ssize_t bytes =
      utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + pos),
                       static_cast<utf8proc_ssize_t>(text.size() - pos),
                       &value);
  if (bytes <= 0) return {-1, 1};
  return {value, static_cast<size_t>(bytes)};
}

size_t PreviousCodePoint(std::string_view text, size_t pos) {
  // Try the longest sequence first; only one that ends exactly at `pos` counts.
  for (size_t bytes = 4; bytes > 1; --bytes) {
    if (bytes > pos) continue;
    const CodePoint c = DecodeCodePoint(text, pos - bytes);
    if (c.value >= 0 && c.bytes == bytes) return pos - bytes;
  }
  return pos - 1;
}

size_t CountCodePoints(std::string_view text) {
  constexpr uint64_t kHighBits = 0x8080808080808080;
  size_t count = 0;
  for (size_t pos = 0; pos < text.size();) {
    uint64_t word = kHighBits;
    if (pos + sizeof(word) <= text.size()) std::memcpy(&word, text.data() + pos, sizeof(word));
    if ((word & kHighBits) == 0) {  // eight ASCII characters at once
      pos += sizeof(word);
      count += sizeof(word);
    } else {
      pos += DecodeCodePoint(text, pos).bytes;
      ++count;
    }
  }
  return count;
}

size_t FindBytes(std::string_view text, std::string_view needle, size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  if (from == text.size()) return std::string_view::npos;
  const void* at = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (at == nullptr) return std::string_view::npos;
  return static_cast<size_t>(static_cast<const char*>(at) - text.data());
}

size_t FindLastBytes(std::string_view text, std::string_view needle) {
  constexpr size_t kShort = 32;  // here the plain search is linear enough
  if (needle.size() <= kShort) return text.rfind(needle);
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_needle(needle.rbegin(), needle.rend());
  const size_t at = FindBytes(reversed_text, reversed_needle, 0);
  return at == std::string_view::npos ? at : text.size() - at - needle.size();
}

void AppendUtf8(int32_t code_point, std::string* out) {
  if (code_point < 0 || code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) {
    code_point = 0xFFFD;
  }
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t n = utf8proc_encode_char(code_point, bytes);
  out->append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(n));
}

bool IsSpace(int32_t c) {
  if (c < 0x80) return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsAlpha(int32_t c) {
  if (c < 0) return false;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return true;
    default:
      return false;
  }
}

bool IsDigit(int32_t c) {
  if (c < 0) return false;
  // Decimal digits, and the superscripts and circled digits that Python also calls digits.
  return utf8proc_category(c) == UTF8PROC_CATEGORY_ND || c == 0xB2 || c == 0xB3 || c == 0xB9 ||
         c == 0x2070 || (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
         (c >= 0x2460 && c <= 0x2468);
}

bool IsAlnum(int32_t c) {
  if (c < 0) return false;
  const auto category = utf8proc_category(c);
  return IsAlpha(c) || IsDigit(c) || category == UTF8PROC_CATEGORY_NL ||
         category == UTF8PROC_CATEGORY_NO;
}

bool IsPrintable(int32_t c) {
  if (c < 0) return false;
  if (c == ' ') return true;
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool IsLower(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LL; }
bool IsUpper(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LU; }
bool IsTitle(int32_t c) { return c >= 0 && utf8proc_category(c) == UTF8PROC_CATEGORY_LT; }

void AppendUpper(int32_t c, std::string* out) {
  if (c == 0xDF) {
    out->append("SS");
  } else {
    AppendUtf8(utf8proc_toupper(c), out);
  }
}

void AppendLower(int32_t c, std::string* out) {
  if (c == 0x130) {  // capital I with dot: i followed by a combining dot
    AppendUtf8('i', out);
    AppendUtf8(0x307, out);
  } else {
    AppendUtf8(utf8proc_tolower(c), out);
  }
}

void AppendTitle(int32_t c, std::string* out) {
  if (c == 0xDF) {
    out->append("Ss");
  } else {
    AppendUtf8(utf8proc_totitle(c), out);
  }
}

bool IsLineBreak(int32_t c) {
  return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

}  // namespace paceline::model
