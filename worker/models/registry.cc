#include "worker/models/registry.h"

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "worker/models/llama.h"

namespace paceline::worker {
namespace {

// Slots are numbered in 32 bits.
constexpr int64_t kMaxKvBlocks = std::numeric_limits<int32_t>::max() / kernels::kKvBlockSize;

constexpr Architecture kArchitectures[] = {
    {"llama", &LoadLlama},
};

}  // namespace

int64_t KvBytesPerBlock(const model::ModelConfig& config, kernels::DType kv_dtype) {
  return kernels::KvLayout{.num_layers = config.num_layers,
                           .num_kv_heads = config.num_kv_heads,
                           .head_dim = config.head_dim,
                           .dtype = kv_dtype}
      .BytesPerBlock();
}

absl::StatusOr<int32_t> BlocksOf(const model::ModelConfig& config, const ModelOptions& options) {
  const int64_t block_bytes = KvBytesPerBlock(config, options.kv_dtype);
  const int64_t num_blocks = options.kv_cache_bytes / block_bytes;
  if (num_blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat("kv-cache-memory: ",
                                                   options.kv_cache_bytes,
                                                   " bytes do not hold one block of ",
                                                   kernels::kKvBlockSize,
                                                   " tokens (",
                                                   block_bytes,
                                                   " bytes)"));
  }
  return static_cast<int32_t>(std::min(num_blocks, kMaxKvBlocks));
}

absl::StatusOr<std::unique_ptr<CausalLm>> LoadOneOf(absl::Span<const Architecture> architectures,
                                                    const model::GgufFile& file,
                                                    const model::ModelConfig& config,
                                                    const ModelOptions& options,
                                                    WeightLoader& loader) {
  std::string known;
  for (const Architecture& architecture : architectures) {
    if (architecture.name == config.architecture) {
      return architecture.load(file, config, options, loader);
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(architecture.name));
  }
  return absl::UnimplementedError(absl::StrCat(
      "model architecture '", config.architecture, "' is not supported; supported: ", known));
}

absl::StatusOr<std::unique_ptr<CausalLm>> LoadModel(const model::GgufFile& file,
                                                    const model::ModelConfig& config,
                                                    const ModelOptions& options,
                                                    WeightLoader& loader) {
  return LoadOneOf(kArchitectures, file, config, options, loader);
}

}  // namespace paceline::worker
