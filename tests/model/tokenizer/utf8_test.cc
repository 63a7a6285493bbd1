#include "model/tokenizer/utf8.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace paceline::model {
namespace {

struct Case {
  std::string bytes;
  std::string text;  // Python: bytes.decode("utf-8", "replace")
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {"", ""},
      {"abc", "abc"},
      {"\xC3\xA9", "\xC3\xA9"},
      {"\x80", "\uFFFD"},
      {"\xC0\x80", "\uFFFD\uFFFD"},  // overlong
      {"\xC3", "\uFFFD"},            // cut off
      {"\xC3"
       "a",
       "\uFFFDa"},
      {"\xC3\xC3\xA9", "\uFFFD\xC3\xA9"},
      {"\xE2\x82", "\uFFFD"},  // one for the whole valid start
      {"\xE2\x82"
       "a",
       "\uFFFDa"},
      {"\xE2\x28\xA1", "\uFFFD(\uFFFD"},
      {"\xE0\x80\x80", "\uFFFD\uFFFD\uFFFD"},  // overlong
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},  // surrogate
      {"\xEE\x80\x80", "\xEE\x80\x80"},        // U+E000
      {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
      {"\xF0\x9F\x98", "\uFFFD"},
      {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\uFFFD\xF0\x9F\x98\x80"},
      {"\xF0\x80\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // overlong
      {"\xF4\x8F\xBF\xBF", "\xF4\x8F\xBF\xBF"},          // U+10FFFF
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},  // above it
      {"\xF5\xFF", "\uFFFD\uFFFD"},
  };
  return cases;
}

TEST(Utf8StreamTest, ReplacesAsPythonHoweverTheStreamIsCut) {
  for (const Case& c : Cases()) {
    for (size_t cut = 0; cut <= c.bytes.size(); ++cut) {
      Utf8Stream stream;
      std::string text;
      stream.Append(std::string_view(c.bytes).substr(0, cut), text);
      EXPECT_TRUE(IsValidUtf8(text));
      stream.Append(std::string_view(c.bytes).substr(cut), text);
      stream.Finish(text);
      EXPECT_EQ(text, c.text) << cut;
    }
  }
}

TEST(Utf8StreamTest, StartsAnewAfterFinish) {
  Utf8Stream stream;
  std::string text;
  stream.Append("\xF0\x9F", text);
  stream.Finish(text);
  stream.Append("\x98", text);
  stream.Finish(text);
  EXPECT_EQ(text, "\uFFFD\uFFFD");
}

TEST(Utf8AtTest, AgreesWithTheStreamOnWhatIsValid) {
  for (const Case& c : Cases()) {
    EXPECT_EQ(IsValidUtf8(c.bytes), c.text == c.bytes) << c.text;
  }
}

TEST(Utf8AtTest, DecodesEveryCodePoint) {
  for (uint32_t code_point = 0; code_point < 0x110000; ++code_point) {
    std::string bytes;
    if (code_point < 0x80) {
      bytes = {static_cast<char>(code_point)};
    } else if (code_point < 0x800) {
      bytes = {static_cast<char>(0xC0 | code_point >> 6),
               static_cast<char>(0x80 | (code_point & 63))};
    } else if (code_point < 0x10000) {
      bytes = {static_cast<char>(0xE0 | code_point >> 12),
               static_cast<char>(0x80 | (code_point >> 6 & 63)),
               static_cast<char>(0x80 | (code_point & 63))};
    } else {
      bytes = {static_cast<char>(0xF0 | code_point >> 18),
               static_cast<char>(0x80 | (code_point >> 12 & 63)),
               static_cast<char>(0x80 | (code_point >> 6 & 63)),
               static_cast<char>(0x80 | (code_point & 63))};
    }
    const Utf8Char c = Utf8At(bytes, 0);
    const bool surrogate = code_point >= 0xD800 && code_point < 0xE000;
    ASSERT_EQ(c.code_point, surrogate ? kInvalidByte : code_point);
    ASSERT_EQ(c.bytes, surrogate ? 1 : bytes.size());
  }
}

}  // namespace
}  // namespace paceline::model
