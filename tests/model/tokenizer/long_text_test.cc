// One megabyte of anything is encoded in well under a second, so no user can make a router thread
// spin: nothing in the tokenizer is quadratic. A quadratic step takes minutes here, so the bound
// holds on slow machines and under sanitizers too.
#include <algorithm>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/model/tokenizer/tokenizer_cases.h"

namespace paceline::model {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kLimitSeconds = 5;
#else
constexpr double kLimitSeconds = 1;
#endif
constexpr size_t kBytes = 1000 * 1000;

// Of this thread, so that what else the machine does has no part in it.
double CpuSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

std::string Repeat(std::string_view part) {
  std::string text;
  while (text.size() < kBytes) text += part;
  return text;
}

std::string RandomText(const std::vector<std::string>& parts) {
  std::mt19937 rng(1);
  std::string text;
  while (text.size() < kBytes) text += parts[rng() % parts.size()];
  return text;
}

std::string RandomBytes() {
  std::mt19937 rng(2);
  std::string text(kBytes, 0);
  for (char& c : text) c = static_cast<char>(rng());
  return text;
}

class LongTextTest : public testing::TestWithParam<std::string> {
 protected:
  void EncodeAndDecodeInTime(const std::string& what, const std::string& text) const {
    const double start = CpuSeconds();
    const auto ids = tokenizer_->Encode(text);
    const double encoded = CpuSeconds();
    tokenizer_->Decode(ids, /*skip_special=*/false);
    EXPECT_LT(encoded - start, kLimitSeconds) << what;
    EXPECT_LT(CpuSeconds() - encoded, kLimitSeconds) << what;
    // The gpt2 vocabulary lacks a few bytes.
    EXPECT_TRUE(!ids.empty() || text[0] == '\xFF') << what;
  }

  std::shared_ptr<const Tokenizer> tokenizer_ = FamilyTokenizer(GetParam());
};

TEST_P(LongTextTest, OneCharacterRepeated) {
  for (const char* part : {"a",
                           " ",
                           "\n",
                           "\t",
                           "\r",
                           "'",
                           "1",
                           "!",
                           "<",
                           "\x7F",
                           "\xC3\xA9",
                           "\xE4\xB8\xAD",
                           "\xF0\x9F\x98\x80",
                           "\xCC\x81",
                           "\xC2\xA0",
                           "\x80",
                           "\xFF",
                           "\xE2\x96\x81"}) {
    EncodeAndDecodeInTime(part, Repeat(part));
  }
}

TEST_P(LongTextTest, PatternsRepeated) {
  for (const char* part : {"ab",
                           "aab",
                           "the ",
                           "hello",
                           " \n",
                           "\n  ",
                           "\r\n",
                           "'s",
                           "'l",
                           "1a",
                           "e\xCC\x81",
                           "\xCC\x81\xCC\xA3",
                           "<|im_",
                           "<|im_end|>",
                           "xyzz",
                           "   x",
                           "a\xFF",
                           "\xF0\x9F\x98",
                           "\xF0\x9F\x91\xA8\xE2\x80\x8D",
                           "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8"}) {
    EncodeAndDecodeInTime(part, Repeat(part));
  }
}

TEST_P(LongTextTest, RandomTexts) {
  EncodeAndDecodeInTime("bytes", RandomBytes());
  EncodeAndDecodeInTime("letters", RandomText({"a", "b", "e", "h", "l", "o", "t", "n"}));
  EncodeAndDecodeInTime("words",
                        RandomText({"the ", "hello ", "it's ", "a", "in", "1", ".\n", " "}));
  EncodeAndDecodeInTime("marks", RandomText({"\xCC\x81", "\xCC\xA3", "\xCC\x80", "\xCC\xA7"}));
}

TEST_P(LongTextTest, ManyUntrustedRanges) {
  const std::string text = Repeat("<|im_end|>");
  std::vector<TextSpan> untrusted;
  for (size_t i = 0; i + 10 < text.size(); i += 20) untrusted.push_back({i + 3, i + 4});
  const double start = CpuSeconds();
  const auto ids = tokenizer_->Encode(text, {.untrusted = untrusted});
  EXPECT_LT(CpuSeconds() - start, kLimitSeconds);
  const int32_t end = *tokenizer_->Find("<|im_end|>");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), end), 50000);
}

INSTANTIATE_TEST_SUITE_P(Families,
                         LongTextTest,
                         testing::Values("gpt2", "smollm", "llama3", "qwen2", "sentencepiece"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace paceline::model
