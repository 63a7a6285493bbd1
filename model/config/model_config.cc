#include "model/config/model_config.h"

#include <cmath>
#include <map>
#include <string_view>

#include "model/gguf/gguf_error.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

// Larger than any model there is, small enough that sizes multiply without overflow and no
// allocation is huge before a tensor has proved it: hidden_size · vocab_size < 2^63.
constexpr int32_t kMaxLayers = 4096;
constexpr int32_t kMaxHeads = 4096;
constexpr int32_t kMaxHeadDim = 4096;
constexpr int32_t kMaxHiddenSize = 1 << 20;
constexpr int32_t kMaxIntermediateSize = 1 << 22;
constexpr int32_t kMaxVocabSize = 1 << 24;
constexpr int32_t kMaxContext = 1 << 27;

constexpr std::string_view kSupportedArchitectures = "llama";

// Reads "<architecture>.<key>" entries, each within a range.
class MetadataReader {
 public:
  MetadataReader(const GgufFile& file, std::string architecture)
      : file_(file), prefix_(std::move(architecture) + ".") {}

  std::string Key(std::string_view key) const { return std::string(prefix_).append(key); }
  bool Has(std::string_view key) const { return file_.Has(Key(key)); }

  absl::StatusOr<int32_t> Int(std::string_view key, int32_t low, int32_t high) const {
    ASSIGN_OR_RETURN(const int64_t value, file_.GetInt(Key(key)));
    return InRange(key, value, low, high);
  }

  absl::StatusOr<int32_t> IntOr(std::string_view key,
                                int32_t low,
                                int32_t high,
                                int32_t absent) const {
    ASSIGN_OR_RETURN(const int64_t value, file_.GetIntOr(Key(key), absent));
    return InRange(key, value, low, high);
  }

  // Finite and greater than 0.
  absl::StatusOr<float> Positive(std::string_view key) const {
    ASSIGN_OR_RETURN(const double value, file_.GetFloat(Key(key)));
    return CheckPositive(key, value);
  }

  absl::StatusOr<float> PositiveOr(std::string_view key, float absent) const {
    ASSIGN_OR_RETURN(const double value, file_.GetFloatOr(Key(key), absent));
    return CheckPositive(key, value);
  }

 private:
  absl::StatusOr<int32_t> InRange(std::string_view key,
                                  int64_t value,
                                  int32_t low,
                                  int32_t high) const {
    if (value < low || value > high) {
      return GgufError(
          "key ", QuoteGgufName(Key(key)), ": ", value, " is not from ", low, " to ", high);
    }
    return static_cast<int32_t>(value);
  }

  absl::StatusOr<float> CheckPositive(std::string_view key, double value) const {
    const float result = static_cast<float>(value);
    if (!std::isfinite(result) || !(result > 0)) {
      return GgufError(
          "key ", QuoteGgufName(Key(key)), ": ", value, " is not a finite number above 0");
    }
    return result;
  }

  const GgufFile& file_;
  const std::string prefix_;
};

absl::Status ReadSizes(const MetadataReader& reader, const GgufFile& file, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.num_layers, reader.Int("block_count", 1, kMaxLayers));
  ASSIGN_OR_RETURN(config.hidden_size, reader.Int("embedding_length", 1, kMaxHiddenSize));
  ASSIGN_OR_RETURN(config.intermediate_size,
                   reader.Int("feed_forward_length", 1, kMaxIntermediateSize));
  ASSIGN_OR_RETURN(config.max_context, reader.Int("context_length", 1, kMaxContext));

  // Older files leave vocab_size out; the vocabulary itself is then the only word on it.
  int64_t num_tokens = -1;
  if (file.Has("tokenizer.ggml.tokens")) {
    ASSIGN_OR_RETURN(num_tokens, file.GetArraySize("tokenizer.ggml.tokens"));
  }
  if (reader.Has("vocab_size") || num_tokens < 0) {
    ASSIGN_OR_RETURN(config.vocab_size, reader.Int("vocab_size", 1, kMaxVocabSize));
    if (num_tokens >= 0 && num_tokens != config.vocab_size) {
      return GgufError("key ",
                       QuoteGgufName(reader.Key("vocab_size")),
                       ": ",
                       config.vocab_size,
                       ", but key 'tokenizer.ggml.tokens' has ",
                       num_tokens,
                       " tokens");
    }
  } else if (num_tokens < 1 || num_tokens > kMaxVocabSize) {
    return GgufError(
        "key 'tokenizer.ggml.tokens': ", num_tokens, " tokens; expected 1 to ", kMaxVocabSize);
  } else {
    config.vocab_size = static_cast<int32_t>(num_tokens);
  }
  return absl::OkStatus();
}

absl::Status ReadHeads(const MetadataReader& reader, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.num_heads, reader.Int("attention.head_count", 1, kMaxHeads));
  ASSIGN_OR_RETURN(config.num_kv_heads,
                   reader.IntOr("attention.head_count_kv", 1, kMaxHeads, config.num_heads));
  if (config.num_kv_heads > config.num_heads || config.num_heads % config.num_kv_heads != 0) {
    return GgufError("key ",
                     QuoteGgufName(reader.Key("attention.head_count")),
                     ": ",
                     config.num_heads,
                     " query heads are not a multiple of ",
                     config.num_kv_heads,
                     " KV heads");
  }
  if (reader.Has("attention.key_length")) {
    ASSIGN_OR_RETURN(config.head_dim, reader.Int("attention.key_length", 1, kMaxHeadDim));
  } else {
    if (config.hidden_size % config.num_heads != 0 ||
        config.hidden_size / config.num_heads > kMaxHeadDim) {
      return GgufError("key ",
                       QuoteGgufName(reader.Key("embedding_length")),
                       ": ",
                       config.hidden_size,
                       " does not divide into ",
                       config.num_heads,
                       " heads");
    }
    config.head_dim = config.hidden_size / config.num_heads;
  }
  if (config.head_dim % 2 != 0) {
    return GgufError("key ",
                     QuoteGgufName(reader.Key("attention.key_length")),
                     ": head size ",
                     config.head_dim,
                     " is odd");
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const MetadataReader& reader, const GgufFile& file, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.rope_dim,
                   reader.IntOr("rope.dimension_count", 2, config.head_dim, config.head_dim));
  if (config.rope_dim % 2 != 0) {
    return GgufError("key ",
                     QuoteGgufName(reader.Key("rope.dimension_count")),
                     ": ",
                     config.rope_dim,
                     " is odd");
  }
  ASSIGN_OR_RETURN(config.rope_theta, reader.PositiveOr("rope.freq_base", 10000.0f));

  ASSIGN_OR_RETURN(const std::string_view scaling,
                   file.GetStringOr(reader.Key("rope.scaling.type"), "none"));
  if (scaling == "linear") {
    config.rope_scaling = RopeScaling::kLinear;
    ASSIGN_OR_RETURN(config.rope_scaling_factor, reader.Positive("rope.scaling.factor"));
  } else if (scaling != "none") {
    return GgufUnsupported("key ",
                           QuoteGgufName(reader.Key("rope.scaling.type")),
                           ": ",
                           QuoteGgufName(scaling),
                           " is not supported; supported: none linear");
  } else if (reader.Has("rope.scale_linear")) {  // files of 2023
    ASSIGN_OR_RETURN(config.rope_scaling_factor, reader.Positive("rope.scale_linear"));
    if (config.rope_scaling_factor != 1) config.rope_scaling = RopeScaling::kLinear;
  }
  if (file.FindTensor("rope_freqs.weight") != nullptr) {
    if (config.rope_scaling == RopeScaling::kLinear) {
      return GgufUnsupported("tensor 'rope_freqs.weight' together with linear rope scaling");
    }
    config.rope_scaling = RopeScaling::kFrequencies;
  }
  return absl::OkStatus();
}

// Variants that use the same architecture name but another computation.
absl::Status RefuseVariants(const MetadataReader& reader,
                            const GgufFile& file,
                            const ModelConfig& config) {
  ASSIGN_OR_RETURN(const int64_t experts, file.GetIntOr(reader.Key("expert_count"), 0));
  if (experts != 0) {
    return GgufUnsupported("key ",
                           QuoteGgufName(reader.Key("expert_count")),
                           ": ",
                           experts,
                           "; mixture-of-experts models are not supported");
  }
  ASSIGN_OR_RETURN(const int64_t value_length,
                   file.GetIntOr(reader.Key("attention.value_length"), config.head_dim));
  if (value_length != config.head_dim) {
    return GgufUnsupported("key ",
                           QuoteGgufName(reader.Key("attention.value_length")),
                           ": ",
                           value_length,
                           " differs from the head size of the keys, ",
                           config.head_dim);
  }
  ASSIGN_OR_RETURN(const int64_t window, file.GetIntOr(reader.Key("attention.sliding_window"), 0));
  if (window != 0 && window < config.max_context) {
    return GgufUnsupported("key ",
                           QuoteGgufName(reader.Key("attention.sliding_window")),
                           ": ",
                           window,
                           "; sliding-window attention is not supported");
  }
  return absl::OkStatus();
}

// The type that most bytes of the file are of; what the file calls itself is often only "mostly".
std::string DominantTensorType(const GgufFile& file) {
  std::map<TensorType, int64_t> bytes;
  for (const TensorInfo& tensor : file.tensors()) bytes[tensor.type] += tensor.num_bytes;
  std::string name = "unknown";
  int64_t most = 0;
  for (const auto& [type, num_bytes] : bytes) {
    if (num_bytes <= most) continue;
    most = num_bytes;
    name = TensorTypeName(type);
  }
  return name;
}

// general.file_type where it names one of our tensor types, else the dominant type of the tensors.
absl::StatusOr<std::string> ReadQuantization(const GgufFile& file) {
  struct FileType {
    int64_t id;
    TensorType type;
  };
  static constexpr FileType kFileTypes[] = {
      {0, TensorType::kF32},
      {1, TensorType::kF16},
      {2, TensorType::kQ4_0},
      {3, TensorType::kQ4_1},
      {7, TensorType::kQ8_0},
      {32, TensorType::kBF16},
  };
  ASSIGN_OR_RETURN(const int64_t id, file.GetIntOr("general.file_type", -1));
  for (const FileType& row : kFileTypes) {
    if (row.id == id) return std::string(TensorTypeName(row.type));
  }
  return DominantTensorType(file);
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file) {
  ModelConfig config;
  ASSIGN_OR_RETURN(const std::string_view architecture, file.GetString("general.architecture"));
  if (architecture != kSupportedArchitectures) {
    return GgufUnsupported("key 'general.architecture': ",
                           QuoteGgufName(architecture),
                           " is not supported; supported: ",
                           kSupportedArchitectures);
  }
  config.architecture = architecture;
  ASSIGN_OR_RETURN(config.name, file.GetStringOr("general.name", ""));
  ASSIGN_OR_RETURN(config.quantization, ReadQuantization(file));

  const MetadataReader reader(file, config.architecture);
  RETURN_IF_ERROR(ReadSizes(reader, file, config));
  RETURN_IF_ERROR(ReadHeads(reader, config));
  RETURN_IF_ERROR(ReadRope(reader, file, config));
  ASSIGN_OR_RETURN(config.rms_norm_eps, reader.Positive("attention.layer_norm_rms_epsilon"));
  if (config.rms_norm_eps >= 1) {
    return GgufError("key ",
                     QuoteGgufName(reader.Key("attention.layer_norm_rms_epsilon")),
                     ": ",
                     config.rms_norm_eps,
                     " is not below 1");
  }
  RETURN_IF_ERROR(RefuseVariants(reader, file, config));

  config.tied_embeddings = file.FindTensor("output.weight") == nullptr;
  config.attention_bias = file.FindTensor("blk.0.attn_q.bias") != nullptr;
  config.attention_output_bias = file.FindTensor("blk.0.attn_output.bias") != nullptr;
  return config;
}

}  // namespace paceline::model
