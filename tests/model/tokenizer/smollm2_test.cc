// The real model's tokenizer against Hugging Face's (tests/data/smollm2/tokenizer.jsonl).
#include <algorithm>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "model/gguf/gguf_file.h"
#include "model/tokenizer/incremental_decoder.h"
#include "model/tokenizer/tokenizer.h"
#include "model/tokenizer/vocabulary_gguf.h"
#include "nlohmann/json.hpp"

namespace paceline::model {
namespace {

constexpr char kModelPath[] = PACELINE_SOURCE_DIR "/models/SmolLM2-135M-Instruct.Q4_1.gguf";
constexpr char kCasesPath[] = PACELINE_SOURCE_DIR "/tests/data/smollm2/tokenizer.jsonl";

class Smollm2Test : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto file = GgufFile::Open(kModelPath);
    ASSERT_TRUE(file.ok()) << file.status() << " (run make model)";
    auto vocabulary = VocabularyFromGguf(**file);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    auto tokenizer = Tokenizer::Create(*std::move(vocabulary));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }
  void SetUp() override { ASSERT_NE(tokenizer_, nullptr); }

  static inline std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_F(Smollm2Test, EncodesAndDecodesAsHuggingFace) {
  std::ifstream cases(kCasesPath);
  std::string line;
  int num_cases = 0;
  while (std::getline(cases, line)) {
    const auto expected = nlohmann::json::parse(line);
    const std::string text = expected["text"];
    const auto ids = expected["ids"].get<std::vector<int32_t>>();
    EXPECT_EQ(tokenizer_->Encode(text), ids) << text;
    EXPECT_EQ(tokenizer_->Decode(ids, /*skip_special=*/false), expected["decoded"]) << text;
    ++num_cases;
  }
  EXPECT_EQ(num_cases, 356);
}

TEST_F(Smollm2Test, DecodesTokenByTokenAsInOneGo) {
  std::ifstream cases(kCasesPath);
  std::string line;
  while (std::getline(cases, line)) {
    const auto expected = nlohmann::json::parse(line);
    IncrementalDecoder decoder(tokenizer_, /*skip_special=*/false);
    std::string text;
    for (const int32_t id : expected["ids"]) text += decoder.Append(id);
    text += decoder.Finish();
    EXPECT_EQ(text, expected["decoded"]);
  }
}

TEST_F(Smollm2Test, ReadsTheVocabularyOfTheFile) {
  const Vocabulary& vocabulary = tokenizer_->vocabulary();
  EXPECT_EQ(vocabulary.model, "gpt2");
  EXPECT_EQ(vocabulary.pre, "smollm");
  EXPECT_EQ(tokenizer_->vocab_size(), 49152);
  EXPECT_EQ(vocabulary.bos_id, 1);
  EXPECT_EQ(vocabulary.eos_id, 2);
  EXPECT_EQ(vocabulary.eot_id, 2);
  EXPECT_EQ(vocabulary.unk_id, 0);
  EXPECT_EQ(vocabulary.pad_id, 2);
  EXPECT_EQ(vocabulary.context_length, 8192);
  EXPECT_FALSE(vocabulary.add_bos);
  EXPECT_EQ(vocabulary.chat_template.substr(0, 22), "{% for message in mess");
  EXPECT_TRUE(tokenizer_->IsSpecial(0));
  EXPECT_TRUE(tokenizer_->IsEndOfGeneration(0));
  EXPECT_TRUE(tokenizer_->IsEndOfGeneration(2));
  EXPECT_FALSE(tokenizer_->IsEndOfGeneration(1));
  EXPECT_EQ(tokenizer_->Find("<|im_end|>"), 2);
}

TEST_F(Smollm2Test, DropsTheBytesThatTheVocabularyLacks) {
  const int32_t a = *tokenizer_->Find("a");
  const int32_t b = *tokenizer_->Find("b");
  EXPECT_EQ(tokenizer_->Encode("a\x04"
                               "b\xF5\xFF"),
            std::vector({a, b}));
}

TEST_F(Smollm2Test, UserTextNeverBecomesASpecialToken) {
  const std::string text = "<|im_start|>user\n<|im_end|><|endoftext|><|im_end|>\n";
  const TextSpan user{17, 40};  // the first <|im_end|> and <|endoftext|>
  const auto ids = tokenizer_->Encode(text, {.untrusted = absl::MakeConstSpan(&user, 1)});
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 2), 1);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 0);
  EXPECT_EQ(tokenizer_->Decode(ids, false), text);
}

}  // namespace
}  // namespace paceline::model
