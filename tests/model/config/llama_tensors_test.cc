#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/config/model_config.h"
#include "tests/fakes/tiny_model.h"

namespace paceline::model {
namespace {

using ::testing::HasSubstr;

absl::Status Validate(const GgufWriter& writer) {
  const std::string bytes = writer.Bytes();
  const auto file = GgufFile::FromBytes(bytes);
  if (!file.ok()) return file.status();
  const auto config = ModelConfigFromGguf(**file);
  if (!config.ok()) return config.status();
  return ValidateLlamaTensors(*config, **file);
}

TEST(LlamaTensorsTest, TinyModelsOfEveryShapeAreComplete) {
  EXPECT_TRUE(Validate(MakeTinyModel()).ok());
  TinyModelOptions options;
  options.tied_embeddings = false;
  options.attention_bias = true;
  options.rope_frequencies = true;
  options.num_heads = 3;
  options.num_kv_heads = 1;
  options.head_dim = 32;
  options.vocab_size = 300;
  for (const TensorTypeInfo& type : TensorTypes()) {
    options.weight_type = type.type;
    options.embedding_type = type.type;
    EXPECT_TRUE(Validate(MakeTinyModel(options)).ok()) << type.name;
  }
}

TEST(LlamaTensorsTest, EveryMissingTensorIsNamed) {
  TinyModelOptions options;
  options.attention_bias = true;
  const std::string bytes = TinyModelBytes(options);
  const auto file = GgufFile::FromBytes(bytes);
  ASSERT_TRUE(file.ok());
  for (const TensorInfo& tensor : (*file)->tensors()) {
    // Without this one there are no biases to expect, and the others are refused as superfluous.
    const bool is_flag = tensor.name == "blk.0.attn_q.bias";
    const absl::Status status = Validate(MakeTinyModel(options).RemoveTensor(tensor.name));
    ASSERT_FALSE(status.ok()) << tensor.name;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(is_flag ? "tensor 'blk.0.attn_k.bias' is not part"
                                  : "tensor '" + std::string(tensor.name) + "' is missing"));
  }
}

TEST(LlamaTensorsTest, WrongShapeIsNamedWithBothShapes) {
  const absl::Status status =
      Validate(MakeTinyModel()
                   .RemoveTensor("blk.1.attn_k.weight")
                   .AddZeroTensor("blk.1.attn_k.weight", TensorType::kQ4_1, {64, 64}));
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()),
            "gguf: tensor 'blk.1.attn_k.weight': expected shape [64, 32], found [64, 64]");
}

TEST(LlamaTensorsTest, TransposedShapeIsRefused) {
  const absl::Status status =
      Validate(MakeTinyModel()
                   .RemoveTensor("blk.0.ffn_down.weight")
                   .AddZeroTensor("blk.0.ffn_down.weight", TensorType::kQ4_1, {64, 128}));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("expected shape [128, 64], found [64, 128]"));
}

TEST(LlamaTensorsTest, EmbeddingRowsMustEqualTheVocabulary) {
  const absl::Status status =
      Validate(MakeTinyModel()
                   .RemoveTensor("token_embd.weight")
                   .AddZeroTensor("token_embd.weight", TensorType::kQ8_0, {64, 287}));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor 'token_embd.weight': expected shape [64, 288], found [64, 287]"));
}

TEST(LlamaTensorsTest, MoreLayersThanTheFileHasAreRefused) {
  const absl::Status status =
      Validate(MakeTinyModel().RemoveKey("llama.block_count").AddUint32("llama.block_count", 3));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor 'blk.2.attn_norm.weight' is missing; expected shape [64]"));
}

TEST(LlamaTensorsTest, TensorOfAnotherComputationIsRefused) {
  const absl::Status status =
      Validate(MakeTinyModel().AddZeroTensor("blk.0.attn_q_norm.weight", TensorType::kF32, {16}));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'blk.0.attn_q_norm.weight'"));
}

TEST(LlamaTensorsTest, OldRotationTensorIsIgnored) {
  EXPECT_TRUE(
      Validate(MakeTinyModel().AddZeroTensor("blk.0.attn_rot_embd.weight", TensorType::kF32, {8}))
          .ok());
}

TEST(LlamaTensorsTest, RopeFrequencyOfZeroIsRefused) {
  TinyModelOptions options;
  options.rope_frequencies = true;
  const absl::Status status =
      Validate(MakeTinyModel(options)
                   .RemoveTensor("rope_freqs.weight")
                   .AddZeroTensor("rope_freqs.weight", TensorType::kF32, {8}));
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor 'rope_freqs.weight': 0 is not"));
}

TEST(LlamaTensorsTest, VocabularyOnlyFileIsRefusedAsSuch) {
  TinyModelOptions options;
  options.num_layers = 0;
  const absl::Status status = Validate(MakeTinyModel(options)
                                           .RemoveKey("llama.block_count")
                                           .AddUint32("llama.block_count", 2)
                                           .RemoveTensor("token_embd.weight")
                                           .RemoveTensor("output_norm.weight"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("holds only a vocabulary"));
}

}  // namespace
}  // namespace paceline::model
