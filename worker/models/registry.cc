#include "worker/models/registry.h"

#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "worker/models/llama.h"

namespace paceline::worker {
namespace {

struct Architecture {
  std::string_view name;
  absl::StatusOr<std::unique_ptr<CausalLm>> (*load)(const model::GgufFile&,
                                                    const model::ModelConfig&,
                                                    const ModelOptions&,
                                                    WeightLoader&);
};

constexpr Architecture kArchitectures[] = {
    {"llama", &LoadLlama},
};

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> LoadModel(const model::GgufFile& file,
                                                    const model::ModelConfig& config,
                                                    const ModelOptions& options,
                                                    WeightLoader& loader) {
  std::string known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == config.architecture) {
      return architecture.load(file, config, options, loader);
    }
    absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(architecture.name));
  }
  return absl::UnimplementedError(absl::StrCat(
      "model architecture '", config.architecture, "' is not supported; supported: ", known));
}

}  // namespace paceline::worker
