// A llama-architecture GGUF with random weights, small enough to make in a test and sound enough to
// serve: a byte-level BPE vocabulary that encodes any text, a ChatML template, and every tensor.
// The same options give the same bytes on every machine. Stateless; any thread.
#ifndef PACELINE_TESTS_FAKES_TINY_MODEL_H_
#define PACELINE_TESTS_FAKES_TINY_MODEL_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "tests/fakes/gguf_writer.h"

namespace paceline::model {

// Token ids of every tiny model; the byte tokens and the merged tokens follow.
inline constexpr int32_t kTinyEndOfText = 0;  // <|endoftext|>: unknown token
inline constexpr int32_t kTinyImStart = 1;    // <|im_start|>: beginning of sequence
inline constexpr int32_t kTinyImEnd = 2;      // <|im_end|>: end of sequence, padding
inline constexpr int32_t kTinyFirstByte = 3;  // byte b is token kTinyFirstByte + b

struct TinyModelOptions {
  int32_t num_layers = 2;
  int32_t hidden_size = 64;
  int32_t num_heads = 4;
  int32_t num_kv_heads = 2;
  int32_t head_dim = 0;  // 0: hidden_size / num_heads; otherwise written as attention.key_length
  int32_t intermediate_size = 128;
  int32_t vocab_size = 288;  // at least 259; what the merges do not fill is <|unused_N|>
  int32_t max_context = 512;
  float rope_theta = 10000.0f;
  TensorType weight_type = TensorType::kQ4_1;  // of the linear layers
  TensorType embedding_type = TensorType::kQ8_0;
  bool tied_embeddings = true;    // false: an output.weight of its own
  bool attention_bias = false;    // true: biases on q, k and v
  bool rope_frequencies = false;  // true: a rope_freqs.weight, as Llama 3.1 has
  uint64_t seed = 1;
};

// The writer, so that a test can add, remove and falsify before it takes the bytes.
// REQUIRES: hidden_size, intermediate_size and num_heads · head_dim are multiples of the block
// sizes of the types.
GgufWriter MakeTinyModel(const TinyModelOptions& options = {});

std::string TinyModelBytes(const TinyModelOptions& options = {});
absl::Status WriteTinyModel(const std::string& path, const TinyModelOptions& options = {});

}  // namespace paceline::model

#endif  // PACELINE_TESTS_FAKES_TINY_MODEL_H_
