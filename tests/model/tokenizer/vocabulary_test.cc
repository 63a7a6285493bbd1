#include "model/tokenizer/vocabulary.h"

#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/tokenizer.h"

namespace paceline::model {
namespace {

using testing::HasSubstr;

Vocabulary Bpe() {
  Vocabulary v;
  v.model = "gpt2";
  v.pre = "gpt-2";
  v.tokens = {"a", "b", "ab", "<|end|>"};
  v.token_types = {1, 1, 1, 3};
  v.merges = {"a b"};
  v.eos_id = 3;
  return v;
}

Vocabulary SentencePiece() {
  Vocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "a", "aa", "<0x41>"};
  v.scores = {0, -2, -1, 0};
  v.token_types = {2, 1, 1, 6};
  v.unk_id = 0;
  return v;
}

// `change` makes the vocabulary unsound; the error names `field`.
void ExpectRefused(Vocabulary vocabulary,
                   const std::string& field,
                   const std::function<void(Vocabulary&)>& change) {
  ASSERT_TRUE(Tokenizer::Create(vocabulary).ok());
  change(vocabulary);
  const absl::Status status = Tokenizer::Create(vocabulary).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
  EXPECT_EQ(std::string(status.message()).substr(0, field.size()), field);
}

TEST(VocabularyTest, UnknownModelOrPreTokenizerIsRefused) {
  ExpectRefused(Bpe(), "model:", [](auto& v) { v.model = "rwkv"; });
  ExpectRefused(Bpe(), "model:", [](auto& v) { v.model = ""; });
  ExpectRefused(Bpe(), "pre:", [](auto& v) { v.pre = "tekken"; });
  ExpectRefused(Bpe(), "add_space_prefix:", [](auto& v) { v.add_space_prefix = true; });
}

TEST(VocabularyTest, SizesMustAgreeAndStayBelowTheLimits) {
  ExpectRefused(Bpe(), "tokens:", [](auto& v) { v.tokens.clear(); });
  ExpectRefused(Bpe(), "tokens:", [](auto& v) { v.tokens.resize(kMaxVocabularyTokens + 1); });
  ExpectRefused(Bpe(), "merges:", [](auto& v) { v.merges.resize(kMaxVocabularyMerges + 1); });
  ExpectRefused(Bpe(), "token_type:", [](auto& v) { v.token_types.pop_back(); });
  ExpectRefused(Bpe(), "token_type:", [](auto& v) { v.token_types.push_back(1); });
  ExpectRefused(SentencePiece(), "scores:", [](auto& v) { v.scores.pop_back(); });
  ExpectRefused(SentencePiece(), "scores:", [](auto& v) { v.scores.clear(); });
  ExpectRefused(Bpe(), "tokens[1]:", [](auto& v) { v.tokens[1].assign(kMaxTokenBytes + 1, 'x'); });
  ExpectRefused(Bpe(), "tokens:", [](auto& v) { v.tokens[1].assign(kMaxVocabularyBytes, 'x'); });
  ExpectRefused(Bpe(), "chat_template:", [](auto& v) {
    v.chat_template.assign(kMaxChatTemplateBytes + 1, 'x');
  });
  ExpectRefused(Bpe(), "context_length:", [](auto& v) { v.context_length = -1; });
}

TEST(VocabularyTest, TokensAreUtf8AndDifferent) {
  ExpectRefused(Bpe(), "tokens[3]:", [](auto& v) { v.tokens[3] = "a"; });
  ExpectRefused(Bpe(), "tokens[0]:", [](auto& v) { v.tokens[0] = "\xFF"; });
  ExpectRefused(Bpe(), "tokens[0]:", [](auto& v) { v.tokens[0] = "\xED\xA0\x80"; });
}

TEST(VocabularyTest, TypesAndScoresAreSound) {
  ExpectRefused(Bpe(), "token_type[0]:", [](auto& v) { v.token_types[0] = 0; });
  ExpectRefused(Bpe(), "token_type[0]:", [](auto& v) { v.token_types[0] = 7; });
  ExpectRefused(Bpe(), "token_type[0]:", [](auto& v) { v.token_types[0] = -1; });
  for (const char* token : {"", "<0x4>", "<0x4G>", "<0x411>", "0x4141", "<0X41>"}) {
    ExpectRefused(SentencePiece(), "token_type[3]:", [&](auto& v) { v.tokens[3] = token; });
  }
  ExpectRefused(SentencePiece(), "scores[1]:", [](auto& v) {
    v.scores[1] = std::numeric_limits<float>::quiet_NaN();
  });
}

TEST(VocabularyTest, MergesAreTwoTokensThatMakeAThird) {
  for (const char* merge : {"", " ", "a", "a ", " a", "ab", "a  b", "a b c", "a b "}) {
    ExpectRefused(Bpe(), "merges[0]:", [&](auto& v) { v.merges[0] = merge; });
  }
  ExpectRefused(Bpe(), "merges[0]:", [](auto& v) { v.merges[0] = "b a"; });  // no such token
  ExpectRefused(Bpe(), "merges[0]:", [](auto& v) { v.merges[0] = "c b"; });
  ExpectRefused(Bpe(), "merges[1]:", [](auto& v) { v.merges.push_back("ab a"); });
  ExpectRefused(Bpe(), "merges[0]:", [](auto& v) { v.merges[0].assign(1 << 20, 'x'); });
}

TEST(VocabularyTest, IdsAreInTheVocabulary) {
  ExpectRefused(Bpe(), "bos_token_id:", [](auto& v) { v.bos_id = 4; });
  ExpectRefused(Bpe(), "eos_token_id:", [](auto& v) { v.eos_id = -2; });
  ExpectRefused(Bpe(), "eot_token_id:", [](auto& v) { v.eot_id = INT32_MAX; });
  ExpectRefused(Bpe(), "unknown_token_id:", [](auto& v) { v.unk_id = INT32_MIN; });
  ExpectRefused(Bpe(), "padding_token_id:", [](auto& v) { v.pad_id = 4; });
}

TEST(VocabularyTest, ErrorsDoNotRepeatTheFile) {
  Vocabulary vocabulary = Bpe();
  vocabulary.merges = {"canary"};
  EXPECT_THAT(std::string(ValidateVocabulary(vocabulary).message()),
              testing::Not(HasSubstr("canary")));
}

TEST(VocabularyTest, EmptyTokensAndInfiniteScoresAreHarmless) {
  Vocabulary bpe = Bpe();
  bpe.tokens.insert(bpe.tokens.end(), {"", ""});
  bpe.token_types.insert(bpe.token_types.end(), {3, 4});
  EXPECT_EQ(Tokenizer::Create(bpe).value()->Encode("ab").size(), 1u);
  Vocabulary pieces = SentencePiece();
  pieces.scores = {0, -std::numeric_limits<float>::infinity(), -1e30f, 0};
  EXPECT_EQ(Tokenizer::Create(pieces).value()->Encode("aaa").size(), 2u);
}

TEST(VocabularyTest, TypesMayBeMissing) {
  Vocabulary vocabulary = Bpe();
  vocabulary.token_types.clear();
  EXPECT_EQ(Tokenizer::Create(vocabulary).value()->Encode("abb").size(), 2u);
}

}  // namespace
}  // namespace paceline::model
