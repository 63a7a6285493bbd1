#include "model/config/model_config.h"

#include <unistd.h>

#include <functional>
#include <limits>
#include <ostream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_model.h"

namespace paceline::model {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<ModelConfig> ConfigOf(const GgufWriter& writer) {
  const std::string bytes = writer.Bytes();
  auto file = GgufFile::FromBytes(bytes);
  if (!file.ok()) return file.status();
  return ModelConfigFromGguf(**file);
}

TEST(ModelConfigTest, ReadsEveryNumberOfTheTinyModel) {
  const auto config = ConfigOf(MakeTinyModel());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "llama");
  EXPECT_EQ(config->name, "tiny");
  EXPECT_EQ(config->vocab_size, 288);
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->intermediate_size, 128);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->max_context, 512);
  EXPECT_EQ(config->rope_dim, 16);
  EXPECT_EQ(config->rope_theta, 10000.0f);
  EXPECT_EQ(config->rope_scaling, RopeScaling::kNone);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->attention_output_bias);
}

TEST(ModelConfigTest, ReadsTheRealModel) {
  constexpr char kRealModel[] = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (access(kRealModel, R_OK) != 0) GTEST_SKIP() << kRealModel << " is absent; run: make model";
  const auto file = GgufFile::Open(kRealModel);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto config = ModelConfigFromGguf(**file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "Smollm2 135M 8k Lc100K Mix1 Ep2");
  EXPECT_EQ(config->quantization, "Q4_1");
  EXPECT_EQ(config->vocab_size, 49152);
  EXPECT_EQ(config->hidden_size, 576);
  EXPECT_EQ(config->intermediate_size, 1536);
  EXPECT_EQ(config->num_layers, 30);
  EXPECT_EQ(config->num_heads, 9);
  EXPECT_EQ(config->num_kv_heads, 3);
  EXPECT_EQ(config->head_dim, 64);
  EXPECT_EQ(config->max_context, 8192);
  EXPECT_EQ(config->rope_dim, 64);
  EXPECT_EQ(config->rope_theta, 100000.0f);
  EXPECT_EQ(config->rms_norm_eps, 1e-5f);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_TRUE(ValidateLlamaTensors(*config, **file).ok());
}

TEST(ModelConfigTest, FlagsFollowTheTensors) {
  TinyModelOptions options;
  options.tied_embeddings = false;
  options.attention_bias = true;
  options.rope_frequencies = true;
  const auto config = ConfigOf(MakeTinyModel(options));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_FALSE(config->tied_embeddings);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_EQ(config->rope_scaling, RopeScaling::kFrequencies);
}

TEST(ModelConfigTest, HeadSizeMayDifferFromHiddenSizeByHeads) {
  TinyModelOptions options;
  options.num_heads = 3;
  options.num_kv_heads = 1;
  options.head_dim = 32;
  const auto config = ConfigOf(MakeTinyModel(options));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 32);
}

TEST(ModelConfigTest, AbsentOptionalKeysTakeTheFormatsDefaults) {
  const auto config = ConfigOf(MakeTinyModel()
                                   .RemoveKey("general.name")
                                   .RemoveKey("llama.attention.head_count_kv")
                                   .RemoveKey("llama.rope.freq_base")
                                   .RemoveKey("llama.rope.dimension_count")
                                   .RemoveKey("llama.vocab_size"));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "");
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->rope_theta, 10000.0f);
  EXPECT_EQ(config->rope_dim, 16);
  EXPECT_EQ(config->vocab_size, 288);
}

TEST(ModelConfigTest, VocabularyOnlyFileHasAConfig) {
  TinyModelOptions options;
  options.num_layers = 0;
  GgufWriter writer = MakeTinyModel(options);
  writer.RemoveTensor("token_embd.weight").RemoveTensor("output_norm.weight");
  writer.RemoveKey("llama.block_count").AddUint32("llama.block_count", 2);
  const auto config = ConfigOf(writer);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->vocab_size, 288);
  EXPECT_EQ(config->quantization, "unknown");
}

TEST(ModelConfigTest, QuantizationIsWhatTheFileSaysElseWhatMostBytesAre) {
  EXPECT_EQ(ConfigOf(MakeTinyModel().AddUint32("general.file_type", 7))->quantization, "Q8_0");
  EXPECT_EQ(ConfigOf(MakeTinyModel())->quantization, "Q4_1");
  TinyModelOptions f16;
  f16.weight_type = TensorType::kF16;
  EXPECT_EQ(ConfigOf(MakeTinyModel(f16))->quantization, "F16");
  // "Mostly Q4_K_M" and the like say nothing about tensors of ours.
  EXPECT_EQ(ConfigOf(MakeTinyModel().AddUint32("general.file_type", 15))->quantization, "Q4_1");
}

TEST(ModelConfigTest, LinearRopeScalingIsReadInBothSpellings) {
  const auto by_type = ConfigOf(MakeTinyModel()
                                    .AddString("llama.rope.scaling.type", "linear")
                                    .AddFloat("llama.rope.scaling.factor", 4.0f));
  ASSERT_TRUE(by_type.ok()) << by_type.status();
  EXPECT_EQ(by_type->rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(by_type->rope_scaling_factor, 4.0f);
  const auto old = ConfigOf(MakeTinyModel().AddFloat("llama.rope.scale_linear", 2.0f));
  EXPECT_EQ(old->rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(old->rope_scaling_factor, 2.0f);
  const auto none = ConfigOf(MakeTinyModel().AddString("llama.rope.scaling.type", "none"));
  EXPECT_EQ(none->rope_scaling, RopeScaling::kNone);
}

struct BadConfig {
  const char* name;
  const char* key;  // replaced, or only removed when `add` is empty
  std::function<void(GgufWriter&)> add;
  absl::StatusCode code;
  const char* error;
};

void PrintTo(const BadConfig& c, std::ostream* out) { *out << c.name; }

class BadConfigTest : public ::testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigTest, IsRefusedByKey) {
  GgufWriter writer = MakeTinyModel();
  writer.RemoveKey(GetParam().key);
  if (GetParam().add) GetParam().add(writer);
  const auto config = ConfigOf(writer);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), GetParam().code) << config.status();
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(GetParam().error));
}

BadConfig Missing(const char* name, const char* key) {
  return {name, key, nullptr, absl::StatusCode::kNotFound, key};
}

BadConfig BadInt(const char* name, const char* key, uint32_t value, const char* error) {
  return {name,
          key,
          [key, value](GgufWriter& w) { w.AddUint32(key, value); },
          absl::StatusCode::kInvalidArgument,
          error};
}

BadConfig BadFloat(const char* name, const char* key, float value) {
  return {name,
          key,
          [key, value](GgufWriter& w) { w.AddFloat(key, value); },
          absl::StatusCode::kInvalidArgument,
          key};
}

BadConfig Unsupported(const char* name,
                      const char* key,
                      std::function<void(GgufWriter&)> add,
                      const char* error) {
  return {name, key, std::move(add), absl::StatusCode::kUnimplemented, error};
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr char kHeads[] = "llama.attention.head_count";
constexpr char kKvHeads[] = "llama.attention.head_count_kv";
constexpr char kLayers[] = "llama.block_count";
constexpr char kHidden[] = "llama.embedding_length";
constexpr char kContext[] = "llama.context_length";
constexpr char kEps[] = "llama.attention.layer_norm_rms_epsilon";
constexpr char kTheta[] = "llama.rope.freq_base";
constexpr char kRopeDim[] = "llama.rope.dimension_count";
constexpr char kKeyLength[] = "llama.attention.key_length";

INSTANTIATE_TEST_SUITE_P(
    Files,
    BadConfigTest,
    ::testing::Values(
        Missing("NoArchitecture", "general.architecture"),
        Unsupported(
            "OtherArchitecture",
            "general.architecture",
            [](auto& w) { w.AddString("general.architecture", "gpt2"); },
            "'general.architecture': 'gpt2' is not supported; supported: llama"),
        Missing("NoLayers", kLayers),
        BadInt("Layers0", kLayers, 0, "'llama.block_count': 0 is not from 1 to"),
        BadInt("Layers2To31", kLayers, 1u << 31, "'llama.block_count': 2147483648 is not from"),
        Missing("NoHidden", kHidden),
        BadInt("Hidden0", kHidden, 0, "'llama.embedding_length': 0 is not from"),
        BadInt("Hidden2To32", kHidden, ~0u, "'llama.embedding_length': 4294967295 is not from"),
        BadInt("HiddenNotHeads", kHidden, 65, "65 does not divide into 4 heads"),
        BadInt("HeadSizeOdd", kHidden, 60, "head size 15 is odd"),
        BadInt("HeadSizeHuge", kHidden, 1 << 20, "1048576 does not divide into 4 heads"),
        Missing("NoIntermediate", "llama.feed_forward_length"),
        BadInt("Intermediate0", "llama.feed_forward_length", 0, "'llama.feed_forward_length': 0"),
        Missing("NoContext", kContext),
        BadInt("Context0", kContext, 0, "'llama.context_length': 0 is not from"),
        BadInt("ContextHuge", kContext, ~0u, "'llama.context_length': 4294967295 is not from"),
        Missing("NoHeads", kHeads),
        BadInt("Heads0", kHeads, 0, "'llama.attention.head_count': 0 is not from"),
        BadInt("KvHeads0", kKvHeads, 0, "'llama.attention.head_count_kv': 0 is not from"),
        BadInt("KvHeadsOverHeads", kKvHeads, 8, "4 query heads are not a multiple of 8 KV heads"),
        BadInt("KvHeadsUneven", kKvHeads, 3, "4 query heads are not a multiple of 3 KV heads"),
        BadInt("KeyLength0", kKeyLength, 0, "'llama.attention.key_length': 0 is not from"),
        BadInt("KeyLengthOdd", kKeyLength, 17, "head size 17 is odd"),
        BadInt("RopeDimOverHead", kRopeDim, 18, "'llama.rope.dimension_count': 18 is not from"),
        BadInt("RopeDimOdd", kRopeDim, 3, "'llama.rope.dimension_count': 3 is odd"),
        BadInt("VocabSizeNotTokens",
               "llama.vocab_size",
               300,
               "'llama.vocab_size': 300, but key 'tokenizer.ggml.tokens' has 288 tokens"),
        Missing("NoEps", kEps),
        BadFloat("Eps0", kEps, 0),
        BadFloat("EpsNegative", kEps, -1e-5f),
        BadFloat("EpsNaN", kEps, kNaN),
        BadFloat("EpsInfinite", kEps, kInfinity),
        BadFloat("Eps1", kEps, 1),
        BadFloat("Theta0", kTheta, 0),
        BadFloat("ThetaNaN", kTheta, kNaN),
        BadFloat("ThetaInfinite", kTheta, kInfinity),
        BadFloat("LinearScaling0", "llama.rope.scale_linear", 0),
        BadConfig{"LayersAString",
                  kLayers,
                  [](auto& w) { w.AddString(kLayers, "2"); },
                  absl::StatusCode::kInvalidArgument,
                  "'llama.block_count': expected an integer, found STRING"},
        BadConfig{"KvHeadsPerLayer",
                  kKvHeads,
                  [](auto& w) {
                    w.AddInt32s(kKvHeads, {2, 4});
                  },
                  absl::StatusCode::kInvalidArgument,
                  "'llama.attention.head_count_kv': expected an integer, found ARRAY of INT32"},
        Unsupported(
            "Yarn",
            "",
            [](auto& w) { w.AddString("llama.rope.scaling.type", "yarn"); },
            "'llama.rope.scaling.type': 'yarn' is not supported; supported: none linear"),
        Unsupported(
            "Experts",
            "",
            [](auto& w) { w.AddUint32("llama.expert_count", 8); },
            "'llama.expert_count': 8; mixture-of-experts"),
        Unsupported(
            "ValueLength",
            "",
            [](auto& w) { w.AddUint32("llama.attention.value_length", 8); },
            "'llama.attention.value_length': 8 differs"),
        Unsupported(
            "SlidingWindow",
            "",
            [](auto& w) { w.AddUint32("llama.attention.sliding_window", 128); },
            "'llama.attention.sliding_window': 128")),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace paceline::model
