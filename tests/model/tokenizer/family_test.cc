// Every tokenizer family against Hugging Face and sentencepiece, on the cases that
// tests/data/tokenizer/make_cases.py made, and the properties that hold for all of them.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/incremental_decoder.h"
#include "model/tokenizer/pre_tokenizer.h"
#include "model/tokenizer/utf8.h"
#include "tests/model/tokenizer/tokenizer_cases.h"

namespace paceline::model {
namespace {

using testing::Each;
using testing::SizeIs;

class FamilyTest : public testing::TestWithParam<std::string> {
 protected:
  nlohmann::json family_ = ReadFamily(GetParam());
  std::shared_ptr<const Tokenizer> tokenizer_ = FamilyTokenizer(GetParam());

  std::string DecodeInSteps(absl::Span<const int32_t> ids, bool skip_special) const {
    IncrementalDecoder decoder(tokenizer_, skip_special);
    std::string text;
    for (const int32_t id : ids) {
      const std::string step = decoder.Append(id);
      EXPECT_TRUE(IsValidUtf8(step));
      text += step;
    }
    return text + decoder.Finish();
  }

  std::string RandomBytes(std::mt19937& rng) const {
    static const std::vector<std::string> parts = {"a",
                                                   "he",
                                                   "the",
                                                   " ",
                                                   "  ",
                                                   "\n",
                                                   "'s",
                                                   "1",
                                                   "\xC3\xA9",
                                                   "\xF0\x9F\x98\x80",
                                                   "e\xCC\x81",
                                                   "<|im_end|>",
                                                   "<|im",
                                                   "_end|>",
                                                   "xyzzy",
                                                   "<think>",
                                                   "[TOOL]",
                                                   "<s>",
                                                   "\xE2\x96\x81"};
    std::string text;
    for (int n = std::uniform_int_distribution(0, 20)(rng); n > 0; --n) {
      const size_t pick = std::uniform_int_distribution<size_t>(0, parts.size() + 3)(rng);
      if (pick < parts.size()) {
        text += parts[pick];
      } else {
        text.push_back(static_cast<char>(std::uniform_int_distribution(0, 255)(rng)));
      }
    }
    return text;
  }
};

TEST_P(FamilyTest, EncodesAsHuggingFace) {
  ASSERT_THAT(family_["cases"], SizeIs(testing::Ge(150u)));
  for (const auto& expected : family_["cases"]) {
    const std::string text = expected["text"];
    EXPECT_EQ(nlohmann::json(tokenizer_->Encode(text)), expected["ids"]) << expected["text"];
  }
}

TEST_P(FamilyTest, SplitsWordsAsHuggingFace) {
  if (tokenizer_->vocabulary().model == "llama") return;  // it has no words
  const PreTokenizer pre_tokenizer = *PreTokenizerByName(tokenizer_->vocabulary().pre);
  for (const auto& expected : family_["cases"]) {
    std::vector<size_t> word_bytes;
    SplitWords(pre_tokenizer, expected["text"].get<std::string>(), [&](std::string_view word) {
      word_bytes.push_back(word.size());
    });
    EXPECT_EQ(nlohmann::json(word_bytes), expected["word_bytes"]) << expected["text"];
  }
}

TEST_P(FamilyTest, DecodesAsHuggingFace) {
  for (const auto& expected : family_["cases"]) {
    const auto ids = expected["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer_->Decode(ids, /*skip_special=*/false), expected["decoded"]) << expected;
    EXPECT_EQ(tokenizer_->Decode(ids, /*skip_special=*/true), expected["decoded_skip"]) << expected;
  }
}

TEST_P(FamilyTest, ReplacesInvalidBytesAsPython) {
  ASSERT_THAT(family_["decodes"], SizeIs(100));
  for (const auto& expected : family_["decodes"]) {
    const auto ids = expected["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer_->Decode(ids, /*skip_special=*/false), expected["decoded"]) << expected;
  }
}

TEST_P(FamilyTest, DecodesIncrementallyAsInOneGo) {
  std::mt19937 rng(1);
  std::uniform_int_distribution<int32_t> any_id(-1, tokenizer_->vocab_size());
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids(round % 17);
    for (int32_t& id : ids) id = any_id(rng);
    for (const bool skip_special : {false, true}) {
      EXPECT_EQ(DecodeInSteps(ids, skip_special), tokenizer_->Decode(ids, skip_special));
    }
  }
}

TEST_P(FamilyTest, GivesOnlyIdsOfTheVocabularyForAnyBytes) {
  std::mt19937 rng(2);
  for (int round = 0; round < 2000; ++round) {
    EXPECT_THAT(tokenizer_->Encode(RandomBytes(rng)),
                Each(testing::AllOf(testing::Ge(0), testing::Lt(tokenizer_->vocab_size()))));
  }
}

// Wherever the borders between trusted and untrusted text lie: no control id whose bytes are not
// all trusted, and the text itself is unchanged.
TEST_P(FamilyTest, UntrustedTextGivesNoSpecialToken) {
  std::mt19937 rng(3);
  for (int round = 0; round < 2000; ++round) {
    const std::string text = RandomBytes(rng);
    const size_t begin = std::uniform_int_distribution<size_t>(0, text.size())(rng);
    const size_t end = std::uniform_int_distribution<size_t>(begin, text.size())(rng);
    const TextSpan span{begin, end};
    const auto ids = tokenizer_->Encode(text, {.untrusted = absl::MakeConstSpan(&span, 1)});
    const auto count_special = [&](absl::Span<const int32_t> some) {
      return std::count_if(some.begin(), some.end(), [&](int32_t id) {
        return tokenizer_->IsSpecial(id) && id != tokenizer_->vocabulary().unk_id;
      });
    };
    const auto before = tokenizer_->Encode(text.substr(0, begin));
    const auto after = tokenizer_->Encode(text.substr(end));
    if (begin < end) {
      EXPECT_EQ(count_special(ids), count_special(before) + count_special(after)) << text;
    }
    const auto plain = tokenizer_->Encode(text, {.parse_special = false});
    EXPECT_EQ(count_special(plain), 0) << text;
  }
}

TEST_P(FamilyTest, CutsOfTrustDoNotChangeTheIdsOfPlainText) {
  for (const auto& expected : family_["cases"]) {
    const std::string text = expected["text"];
    std::vector<TextSpan> every_other_byte;
    for (size_t i = 0; i + 1 < text.size(); i += 2) every_other_byte.push_back({i, i + 1});
    EXPECT_EQ(tokenizer_->Encode(text, {.untrusted = every_other_byte}),
              tokenizer_->Encode(text, {.parse_special = false}))
        << expected["text"];
  }
}

INSTANTIATE_TEST_SUITE_P(Families,
                         FamilyTest,
                         testing::Values("gpt2", "smollm", "llama3", "qwen2", "sentencepiece"),
                         [](const auto& info) { return info.param; });

// With all 256 bytes in the vocabulary nothing is lost.
class RoundTripTest : public FamilyTest {};

TEST_P(RoundTripTest, DecodesWhatItEncoded) {
  std::mt19937 rng(4);
  for (int round = 0; round < 3000; ++round) {
    const std::string text = RandomBytes(rng);
    std::string bytes;
    for (const int32_t id : tokenizer_->Encode(text)) bytes += tokenizer_->TokenBytes(id);
    EXPECT_EQ(bytes, text);
  }
}

INSTANTIATE_TEST_SUITE_P(Families,
                         RoundTripTest,
                         testing::Values("smollm", "llama3"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace paceline::model
