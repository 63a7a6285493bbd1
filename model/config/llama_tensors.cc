// ValidateLlamaTensors: the tensors of architecture llama and their shapes.
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "model/config/model_config.h"
#include "model/gguf/gguf_error.h"
#include "proto/support/status_macros.h"

namespace paceline::model {
namespace {

std::string ShapeText(absl::Span<const int64_t> shape) {
  return "[" + absl::StrJoin(shape, ", ") + "]";
}

// Collects the tensors that were asked for, so that the rest can be refused.
class TensorChecklist {
 public:
  explicit TensorChecklist(const GgufFile& file) : file_(file) {}

  // `shape` in GGUF order: a linear layer's weight is [in, out].
  absl::Status Require(const std::string& name, absl::Span<const int64_t> shape) {
    const TensorInfo* tensor = file_.FindTensor(name);
    if (tensor == nullptr) {
      return GgufError(
          "tensor ", QuoteGgufName(name), " is missing; expected shape ", ShapeText(shape));
    }
    if (absl::Span<const int64_t>(tensor->shape) != shape) {
      return GgufError("tensor ",
                       QuoteGgufName(name),
                       ": expected shape ",
                       ShapeText(shape),
                       ", found ",
                       ShapeText(tensor->shape));
    }
    expected_.insert(tensor->name);
    return absl::OkStatus();
  }

  // For a tensor that changes nothing. Absence is fine.
  void Ignore(const std::string& name) {
    if (const TensorInfo* tensor = file_.FindTensor(name)) expected_.insert(tensor->name);
  }

  // A tensor that nobody asked for means a computation that would be left out.
  absl::Status RefuseOthers() const {
    for (const TensorInfo& tensor : file_.tensors()) {
      if (!expected_.contains(tensor.name)) {
        return GgufUnsupported("tensor ",
                               QuoteGgufName(tensor.name),
                               " is not part of the llama models that are supported");
      }
    }
    return absl::OkStatus();
  }

 private:
  const GgufFile& file_;
  absl::flat_hash_set<std::string_view> expected_;
};

absl::Status CheckLayer(const ModelConfig& config, int32_t layer, TensorChecklist& tensors) {
  const int64_t hidden = config.hidden_size;
  const int64_t intermediate = config.intermediate_size;
  const int64_t q_size = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_size = int64_t{config.num_kv_heads} * config.head_dim;
  const std::string prefix = "blk." + std::to_string(layer) + ".";

  RETURN_IF_ERROR(tensors.Require(prefix + "attn_norm.weight", {hidden}));
  RETURN_IF_ERROR(tensors.Require(prefix + "attn_q.weight", {hidden, q_size}));
  RETURN_IF_ERROR(tensors.Require(prefix + "attn_k.weight", {hidden, kv_size}));
  RETURN_IF_ERROR(tensors.Require(prefix + "attn_v.weight", {hidden, kv_size}));
  RETURN_IF_ERROR(tensors.Require(prefix + "attn_output.weight", {q_size, hidden}));
  if (config.attention_bias) {
    RETURN_IF_ERROR(tensors.Require(prefix + "attn_q.bias", {q_size}));
    RETURN_IF_ERROR(tensors.Require(prefix + "attn_k.bias", {kv_size}));
    RETURN_IF_ERROR(tensors.Require(prefix + "attn_v.bias", {kv_size}));
  }
  if (config.attention_output_bias) {
    RETURN_IF_ERROR(tensors.Require(prefix + "attn_output.bias", {hidden}));
  }
  RETURN_IF_ERROR(tensors.Require(prefix + "ffn_norm.weight", {hidden}));
  RETURN_IF_ERROR(tensors.Require(prefix + "ffn_gate.weight", {hidden, intermediate}));
  RETURN_IF_ERROR(tensors.Require(prefix + "ffn_up.weight", {hidden, intermediate}));
  RETURN_IF_ERROR(tensors.Require(prefix + "ffn_down.weight", {intermediate, hidden}));
  // What old converters wrote of the rotation; rope_theta says the same.
  tensors.Ignore(prefix + "attn_rot_embd.weight");
  return absl::OkStatus();
}

// The frequencies are divided by these.
absl::Status CheckRopeFrequencies(const GgufFile& file) {
  const TensorInfo& tensor = *file.FindTensor("rope_freqs.weight");
  std::vector<float> values(tensor.num_elements);
  Dequantize(tensor.type, tensor.data, tensor.num_elements, values.data());
  for (const float value : values) {
    if (!std::isfinite(value) || !(value > 0)) {
      return GgufError("tensor 'rope_freqs.weight': ", value, " is not a finite number above 0");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateLlamaTensors(const ModelConfig& config, const GgufFile& file) {
  if (file.tensors().empty()) {
    return GgufError("the file has no tensors; it holds only a vocabulary");
  }
  TensorChecklist tensors(file);
  const int64_t hidden = config.hidden_size;
  RETURN_IF_ERROR(tensors.Require("token_embd.weight", {hidden, config.vocab_size}));
  RETURN_IF_ERROR(tensors.Require("output_norm.weight", {hidden}));
  if (!config.tied_embeddings) {
    RETURN_IF_ERROR(tensors.Require("output.weight", {hidden, config.vocab_size}));
  }
  if (config.rope_scaling == RopeScaling::kFrequencies) {
    RETURN_IF_ERROR(tensors.Require("rope_freqs.weight", {config.rope_dim / 2}));
    RETURN_IF_ERROR(CheckRopeFrequencies(file));
  }
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    RETURN_IF_ERROR(CheckLayer(config, layer, tensors));
  }
  return tensors.RefuseOthers();
}

}  // namespace paceline::model
