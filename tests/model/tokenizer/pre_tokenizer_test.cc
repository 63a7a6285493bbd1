#include "model/tokenizer/pre_tokenizer.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::model {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> Words(PreTokenizer pre_tokenizer, std::string_view text) {
  std::vector<std::string> words;
  SplitWords(pre_tokenizer, text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

TEST(PreTokenizerTest, Gpt2TakesOneSpaceAlongAndContractionsOff) {
  EXPECT_THAT(Words(PreTokenizer::kGpt2, "It's  12 o'clock!!\n\n x"),
              ElementsAre("It", "'s", " ", " 12", " o", "'", "clock", "!!", "\n\n", " x"));
  EXPECT_THAT(Words(PreTokenizer::kGpt2, "IT'S"), ElementsAre("IT", "'", "S"));
  EXPECT_THAT(Words(PreTokenizer::kGpt2, ""), IsEmpty());
}

TEST(PreTokenizerTest, SmollmCutsDigitsApartAndSpacesBeforeThem) {
  EXPECT_THAT(Words(PreTokenizer::kSmollm, "in  2026."),
              ElementsAre("in", "  ", "2", "0", "2", "6", "."));
}

TEST(PreTokenizerTest, Llama3TakesThreeDigitsAndAnySignBeforeLetters) {
  EXPECT_THAT(Words(PreTokenizer::kLlama3, "(a) 12345\tb I'M \n\n x"),
              ElementsAre("(a", ")", " ", "123", "45", "\tb", " I", "'M", " \n\n", " x"));
}

TEST(PreTokenizerTest, Llama3KeepsNewlinesWithTheSignsBeforeThem) {
  EXPECT_THAT(Words(PreTokenizer::kLlama3, "a.\n\n  b"), ElementsAre("a", ".\n\n", " ", " b"));
}

TEST(PreTokenizerTest, Qwen2TakesDigitsOneByOne) {
  EXPECT_THAT(Words(PreTokenizer::kQwen2, "a 12"), ElementsAre("a", " ", "1", "2"));
}

TEST(PreTokenizerTest, InvalidBytesAreSigns) {
  EXPECT_THAT(Words(PreTokenizer::kGpt2, "a\xFF\xC3!b"), ElementsAre("a", "\xFF\xC3!", "b"));
}

TEST(PreTokenizerTest, KnowsTheNamesOfGguf) {
  EXPECT_EQ(PreTokenizerByName("default"), PreTokenizer::kGpt2);
  EXPECT_EQ(PreTokenizerByName("gpt-2"), PreTokenizer::kGpt2);
  EXPECT_EQ(PreTokenizerByName("smollm"), PreTokenizer::kSmollm);
  EXPECT_EQ(PreTokenizerByName("llama-bpe"), PreTokenizer::kLlama3);
  EXPECT_EQ(PreTokenizerByName("qwen2"), PreTokenizer::kQwen2);
  EXPECT_EQ(PreTokenizerByName("tekken"), std::nullopt);
  EXPECT_EQ(PreTokenizerByName(""), std::nullopt);
}

}  // namespace
}  // namespace paceline::model
