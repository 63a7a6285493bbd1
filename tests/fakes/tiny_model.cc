#include "tests/fakes/tiny_model.h"

#include <cmath>
#include <utility>
#include <vector>

#include "proto/support/log.h"
#include "tests/fakes/quantize.h"

namespace paceline::model {
namespace {

constexpr std::string_view kChatMlTemplate =
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

// Ordered as a trained list is: each side is a byte or an earlier result. Ġ is the space.
constexpr std::pair<std::string_view, std::string_view> kMerges[] = {
    {"Ġ", "t"},    {"Ġ", "a"}, {"h", "e"},  {"i", "n"},   {"r", "e"},    {"o", "n"},
    {"Ġt", "he"},  {"e", "r"}, {"Ġ", "s"},  {"a", "t"},   {"Ġ", "w"},    {"o", "u"},
    {"n", "d"},    {"l", "l"}, {"i", "s"},  {"Ġa", "nd"}, {"in", "g"},   {"he", "ll"},
    {"hell", "o"}, {"o", "r"}, {"w", "or"}, {"l", "d"},   {"wor", "ld"}, {"Ġ", "Ġ"},
};

// GPT-2's printable stand-in for a byte, as UTF-8.
std::string ByteToken(int byte) {
  static const std::vector<int> code_points = [] {
    std::vector<int> map(256);
    int next = 256;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      map[b] = printable ? b : next++;
    }
    return map;
  }();
  const int c = code_points[byte];
  if (c < 128) return std::string(1, static_cast<char>(c));
  return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
}

// Uniform floats from a 64-bit counter hash (SplitMix64): no libstdc++ distribution, so the bytes
// are the same everywhere.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  // In [-range, range).
  float Uniform(float range) {
    state_ += 0x9e3779b97f4a7c15ULL;
    uint64_t z = state_;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
    z ^= z >> 31;
    const float unit = static_cast<float>(z >> 40) * 0x1p-24f;  // [0, 1)
    return (2 * unit - 1) * range;
  }

 private:
  uint64_t state_;
};

class TinyModelMaker {
 public:
  explicit TinyModelMaker(const TinyModelOptions& options)
      : options_(options),
        head_dim_(options.head_dim > 0 ? options.head_dim
                                       : options.hidden_size / options.num_heads),
        random_(options.seed) {}

  GgufWriter Make() {
    AddConfig();
    AddTokenizer();
    AddTensors();
    return std::move(writer_);
  }

 private:
  void AddConfig() {
    writer_.AddString("general.architecture", "llama")
        .AddString("general.name", "tiny")
        .AddUint32("llama.block_count", options_.num_layers)
        .AddUint32("llama.context_length", options_.max_context)
        .AddUint32("llama.embedding_length", options_.hidden_size)
        .AddUint32("llama.feed_forward_length", options_.intermediate_size)
        .AddUint32("llama.attention.head_count", options_.num_heads)
        .AddUint32("llama.attention.head_count_kv", options_.num_kv_heads)
        .AddFloat("llama.rope.freq_base", options_.rope_theta)
        .AddFloat("llama.attention.layer_norm_rms_epsilon", 1e-5f)
        .AddUint32("llama.vocab_size", options_.vocab_size)
        .AddUint32("llama.rope.dimension_count", head_dim_);
    if (options_.head_dim > 0) {
      writer_.AddUint32("llama.attention.key_length", head_dim_)
          .AddUint32("llama.attention.value_length", head_dim_);
    }
  }

  void AddTokenizer() {
    constexpr int32_t kNormal = 1;
    constexpr int32_t kControl = 3;
    constexpr int32_t kUnused = 5;
    std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    std::vector<int32_t> types(tokens.size(), kControl);
    for (int byte = 0; byte < 256; ++byte) tokens.push_back(ByteToken(byte));
    std::vector<std::string> merges;
    const size_t vocab_size = options_.vocab_size;
    PACELINE_CHECK(vocab_size >= tokens.size(), "tiny model: vocab_size is below 259");
    for (const auto& [left, right] : kMerges) {
      if (tokens.size() == vocab_size) break;
      tokens.push_back(std::string(left).append(right));
      merges.push_back(std::string(left).append(" ").append(right));
    }
    types.resize(tokens.size(), kNormal);
    while (tokens.size() < vocab_size) {
      tokens.push_back("<|unused_" + std::to_string(tokens.size()) + "|>");
    }
    types.resize(tokens.size(), kUnused);
    writer_.AddString("tokenizer.ggml.model", "gpt2")
        .AddString("tokenizer.ggml.pre", "smollm")
        .AddStrings("tokenizer.ggml.tokens", tokens)
        .AddInt32s("tokenizer.ggml.token_type", types)
        .AddStrings("tokenizer.ggml.merges", merges)
        .AddUint32("tokenizer.ggml.bos_token_id", kTinyImStart)
        .AddUint32("tokenizer.ggml.eos_token_id", kTinyImEnd)
        .AddUint32("tokenizer.ggml.unknown_token_id", kTinyEndOfText)
        .AddUint32("tokenizer.ggml.padding_token_id", kTinyImEnd)
        .AddBool("tokenizer.ggml.add_bos_token", false)
        .AddBool("tokenizer.ggml.add_space_prefix", false)
        .AddString("tokenizer.chat_template", kChatMlTemplate);
  }

  // Uniform in `center` ± range.
  void AddRandom(const std::string& name,
                 TensorType type,
                 std::vector<int64_t> shape,
                 float range,
                 float center = 0) {
    int64_t num_elements = 1;
    for (const int64_t size : shape) num_elements *= size;
    std::vector<float> values(num_elements);
    for (float& value : values) value = center + random_.Uniform(range);
    writer_.AddTensor(name, type, std::move(shape), Quantize(type, values));
  }

  // Keeps the variance of what goes through it, times `gain` squared.
  void AddLinear(const std::string& name, int64_t in, int64_t out, float gain = 1) {
    AddRandom(name, options_.weight_type, {in, out}, gain * std::sqrt(3.0f / in));
  }

  void AddNorm(const std::string& name) {
    AddRandom(name, TensorType::kF32, {options_.hidden_size}, 0.2f, 1.0f);
  }

  void AddTensors() {
    const int64_t hidden = options_.hidden_size;
    // The layers add more to the residual stream than the embedding brings, so a tied head does not
    // simply repeat the last token.
    AddRandom("token_embd.weight", options_.embedding_type, {hidden, options_.vocab_size}, 0.5f);
    AddNorm("output_norm.weight");
    if (!options_.tied_embeddings) {
      AddRandom("output.weight", options_.embedding_type, {hidden, options_.vocab_size}, 0.5f);
    }
    if (options_.rope_frequencies) {
      AddRandom("rope_freqs.weight", TensorType::kF32, {head_dim_ / 2}, 3.0f, 5.0f);
    }
    for (int32_t layer = 0; layer < options_.num_layers; ++layer) AddLayer(layer);
  }

  void AddLayer(int32_t layer) {
    const int64_t hidden = options_.hidden_size;
    const int64_t q_size = int64_t{options_.num_heads} * head_dim_;
    const int64_t kv_size = int64_t{options_.num_kv_heads} * head_dim_;
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    AddNorm(prefix + "attn_norm.weight");
    AddLinear(prefix + "attn_q.weight", hidden, q_size, 1.5f);
    AddLinear(prefix + "attn_k.weight", hidden, kv_size, 1.5f);
    AddLinear(prefix + "attn_v.weight", hidden, kv_size);
    if (options_.attention_bias) {
      AddRandom(prefix + "attn_q.bias", TensorType::kF32, {q_size}, 0.5f);
      AddRandom(prefix + "attn_k.bias", TensorType::kF32, {kv_size}, 0.5f);
      AddRandom(prefix + "attn_v.bias", TensorType::kF32, {kv_size}, 0.5f);
    }
    AddLinear(prefix + "attn_output.weight", q_size, hidden, 1.5f);
    AddNorm(prefix + "ffn_norm.weight");
    AddLinear(prefix + "ffn_gate.weight", hidden, options_.intermediate_size, 1.5f);
    AddLinear(prefix + "ffn_up.weight", hidden, options_.intermediate_size, 1.5f);
    AddLinear(prefix + "ffn_down.weight", options_.intermediate_size, hidden, 1.5f);
  }

  const TinyModelOptions options_;
  const int32_t head_dim_;
  Random random_;
  GgufWriter writer_;
};

}  // namespace

GgufWriter MakeTinyModel(const TinyModelOptions& options) { return TinyModelMaker(options).Make(); }

std::string TinyModelBytes(const TinyModelOptions& options) {
  return MakeTinyModel(options).Bytes();
}

absl::Status WriteTinyModel(const std::string& path, const TinyModelOptions& options) {
  return MakeTinyModel(options).WriteTo(path);
}

}  // namespace paceline::model
