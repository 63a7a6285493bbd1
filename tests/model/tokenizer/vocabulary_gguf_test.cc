#include "model/tokenizer/vocabulary_gguf.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/tokenizer/tokenizer.h"
#include "tests/fakes/gguf_writer.h"

namespace paceline::model {
namespace {

using testing::HasSubstr;

GgufWriter Bpe() {
  return GgufWriter()
      .AddString("general.architecture", "llama")
      .AddUint32("llama.context_length", 2048)
      .AddString("tokenizer.ggml.model", "gpt2")
      .AddString("tokenizer.ggml.pre", "llama-bpe")
      .AddStrings("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "<|eot_id|>"})
      .AddInt32s("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1, 1, 3})
      .AddStrings("tokenizer.ggml.merges", std::vector<std::string>{"a b"})
      .AddUint32("tokenizer.ggml.bos_token_id", 0)
      .AddUint32("tokenizer.ggml.eos_token_id", 1)
      .AddString("tokenizer.chat_template", "{{ messages }}");
}

GgufWriter SentencePiece() {
  return GgufWriter()
      .AddString("tokenizer.ggml.model", "llama")
      .AddStrings("tokenizer.ggml.tokens", std::vector<std::string>{"<unk>", "<s>", "</s>", "a"})
      .AddFloats("tokenizer.ggml.scores", std::vector<float>{0, 0, 0, -1})
      .AddInt32s("tokenizer.ggml.token_type", std::vector<int32_t>{2, 3, 3, 1});
}

absl::StatusOr<Vocabulary> Read(const GgufWriter& writer) {
  const std::string bytes = writer.Bytes();
  auto file = GgufFile::FromBytes(bytes);
  if (!file.ok()) return file.status();
  return VocabularyFromGguf(**file);
}

void ExpectRefused(const GgufWriter& writer, const std::string& field) {
  const absl::Status status = Read(writer).status();
  EXPECT_TRUE(status.code() == absl::StatusCode::kInvalidArgument ||
              status.code() == absl::StatusCode::kNotFound)
      << field << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(field));
}

TEST(VocabularyGgufTest, ReadsAByteLevelVocabularyWithoutTensors) {
  const auto v = Read(Bpe());
  ASSERT_TRUE(v.ok()) << v.status();
  EXPECT_EQ(v->model, "gpt2");
  EXPECT_EQ(v->pre, "llama-bpe");
  EXPECT_EQ(v->tokens[2], "ab");
  EXPECT_EQ(v->merges[0], "a b");
  EXPECT_EQ(v->bos_id, 0);
  EXPECT_EQ(v->eos_id, 1);
  EXPECT_EQ(v->eot_id, 3);  // found by its text
  EXPECT_EQ(v->unk_id, -1);
  EXPECT_TRUE(v->add_bos);  // Llama 3's default
  EXPECT_FALSE(v->add_space_prefix);
  EXPECT_EQ(v->chat_template, "{{ messages }}");
  EXPECT_EQ(v->context_length, 2048);
  EXPECT_TRUE(Tokenizer::Create(*v).ok());
}

TEST(VocabularyGgufTest, ReadsASentencePieceVocabularyWithItsDefaults) {
  const auto v = Read(SentencePiece());
  ASSERT_TRUE(v.ok()) << v.status();
  EXPECT_EQ(v->unk_id, 0);
  EXPECT_EQ(v->bos_id, 1);
  EXPECT_EQ(v->eos_id, 2);
  EXPECT_TRUE(v->add_bos);
  EXPECT_TRUE(v->add_space_prefix);
  EXPECT_EQ(v->context_length, 0);
}

TEST(VocabularyGgufTest, KeysOverrideTheDefaults) {
  const auto v = Read(SentencePiece()
                          .AddBool("tokenizer.ggml.add_bos_token", false)
                          .AddBool("tokenizer.ggml.add_eos_token", true)
                          .AddBool("tokenizer.ggml.add_space_prefix", false)
                          .AddUint32("tokenizer.ggml.padding_token_id", 2));
  ASSERT_TRUE(v.ok()) << v.status();
  EXPECT_FALSE(v->add_bos);
  EXPECT_TRUE(v->add_eos);
  EXPECT_FALSE(v->add_space_prefix);
  EXPECT_EQ(v->pad_id, 2);
}

TEST(VocabularyGgufTest, AMissingPreTokenizerIsTheDefault) {
  const auto v = Read(Bpe().RemoveKey("tokenizer.ggml.pre"));
  ASSERT_TRUE(v.ok()) << v.status();
  EXPECT_EQ(v->pre, "default");
}

TEST(VocabularyGgufTest, MissingKeysAreNamed) {
  for (const char* key :
       {"tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    ExpectRefused(Bpe().RemoveKey(key), key);
  }
  ExpectRefused(SentencePiece().RemoveKey("tokenizer.ggml.scores"), "tokenizer.ggml.scores");
  ExpectRefused(GgufWriter(), "tokenizer.ggml.model");
}

TEST(VocabularyGgufTest, WrongTypesAreNamed) {
  for (const char* key : {"tokenizer.ggml.model",
                          "tokenizer.ggml.pre",
                          "tokenizer.ggml.tokens",
                          "tokenizer.ggml.token_type",
                          "tokenizer.ggml.merges",
                          "tokenizer.ggml.bos_token_id",
                          "tokenizer.ggml.add_bos_token",
                          "tokenizer.chat_template",
                          "llama.context_length"}) {
    ExpectRefused(Bpe().RemoveKey(key).AddFloat(key, 1), key);
    ExpectRefused(Bpe().RemoveKey(key).AddFloats(key, std::vector<float>{1, 2, 3, 4}), key);
  }
  ExpectRefused(SentencePiece()
                    .RemoveKey("tokenizer.ggml.scores")
                    .AddStrings("tokenizer.ggml.scores", std::vector<std::string>(4)),
                "tokenizer.ggml.scores");
}

TEST(VocabularyGgufTest, IdsOutsideTheVocabularyAreNamed) {
  for (const char* key :
       {"bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id", "padding_token_id"}) {
    const std::string full = std::string("tokenizer.ggml.") + key;
    ExpectRefused(Bpe().RemoveKey(full).AddUint32(full, 4), full);
    ExpectRefused(Bpe().RemoveKey(full).AddUint32(full, UINT32_MAX), full);
  }
}

TEST(VocabularyGgufTest, WhatTheValidationRefusesIsNamedWithItsKey) {
  ExpectRefused(Bpe()
                    .RemoveKey("tokenizer.ggml.merges")
                    .AddStrings("tokenizer.ggml.merges", std::vector<std::string>{"a c"}),
                "tokenizer.ggml.merges[0]");
  ExpectRefused(
      Bpe()
          .RemoveKey("tokenizer.ggml.tokens")
          .AddStrings("tokenizer.ggml.tokens", std::vector<std::string>{"a", "b", "ab", "a"}),
      "tokenizer.ggml.tokens[3]");
  ExpectRefused(Bpe()
                    .RemoveKey("tokenizer.ggml.token_type")
                    .AddInt32s("tokenizer.ggml.token_type", std::vector<int32_t>{1, 1}),
                "tokenizer.ggml.token_type");
  ExpectRefused(Bpe().RemoveKey("tokenizer.ggml.pre").AddString("tokenizer.ggml.pre", "new"),
                "tokenizer.ggml.pre");
  ExpectRefused(Bpe().RemoveKey("tokenizer.ggml.model").AddString("tokenizer.ggml.model", "t5"),
                "tokenizer.ggml.model");
}

TEST(VocabularyGgufTest, LimitsAreChecked) {
  ExpectRefused(
      Bpe()
          .RemoveKey("tokenizer.ggml.tokens")
          .AddStrings("tokenizer.ggml.tokens", std::vector<std::string>(kMaxVocabularyTokens + 1)),
      "tokenizer.ggml.tokens");
  ExpectRefused(
      Bpe()
          .RemoveKey("tokenizer.chat_template")
          .AddString("tokenizer.chat_template", std::string(kMaxChatTemplateBytes + 1, 'x')),
      "tokenizer.chat_template");
  ExpectRefused(
      Bpe().RemoveKey("llama.context_length").AddUint32("llama.context_length", UINT32_MAX),
      "llama.context_length");
}

}  // namespace
}  // namespace paceline::model
