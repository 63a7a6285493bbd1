// What a model is: sizes, position encoding, normalisation; read from a model file's metadata and
// checked, so that everything above may multiply and allocate by these numbers.
// A plain value, owned by whoever holds it; stateless functions, any thread.
#ifndef PACELINE_MODEL_CONFIG_MODEL_CONFIG_H_
#define PACELINE_MODEL_CONFIG_MODEL_CONFIG_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "model/gguf/gguf_file.h"

namespace paceline::model {

enum class RopeScaling {
  kNone,
  kLinear,       // positions are divided by rope_scaling_factor
  kFrequencies,  // Llama 3.1: each frequency is divided by its element of tensor rope_freqs.weight
};

struct ModelConfig {
  std::string architecture;  // as the file says it: "llama"
  std::string name;          // for people; empty when the file gives none
  std::string quantization;  // "Q4_1", "F16", …; "unknown" for a file without tensors

  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_layers = 0;
  int32_t num_heads = 0;  // query heads; a multiple of num_kv_heads
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;     // even
  int32_t max_context = 0;  // tokens

  int32_t rope_dim = 0;  // leading elements of each head that are rotated: even, <= head_dim
  float rope_theta = 0;
  RopeScaling rope_scaling = RopeScaling::kNone;
  float rope_scaling_factor = 1;  // of kLinear
  float rms_norm_eps = 0;

  bool tied_embeddings = false;        // no output.weight: the head is the embedding
  bool attention_bias = false;         // biases on q, k and v
  bool attention_output_bias = false;  // a bias on the attention's output projection
};

// Reads and checks the metadata; needs no tensors, so it also serves a vocabulary-only file (whose
// three tensor flags then mean nothing). NotFound: a key is missing; InvalidArgument: it has the
// wrong type or an impossible value; Unimplemented: an architecture or a variant of it that is not
// supported. All name the key.
absl::StatusOr<ModelConfig> ModelConfigFromGguf(const GgufFile& file);

// That every tensor `config` calls for is there with the right shape, and no other one that would
// change the result. `config` must come from the same file and describe architecture llama. Errors
// name the tensor and both shapes. (llama_tensors.cc)
absl::Status ValidateLlamaTensors(const ModelConfig& config, const GgufFile& file);

}  // namespace paceline::model

#endif  // PACELINE_MODEL_CONFIG_MODEL_CONFIG_H_
