#include "worker/models/device/registry.h"

#include "worker/models/device/device_llama.h"

namespace paceline::worker {
namespace {

constexpr Architecture kArchitectures[] = {
    {"llama", &LoadDeviceLlama},
};

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> LoadDeviceModel(const model::GgufFile& file,
                                                          const model::ModelConfig& config,
                                                          const ModelOptions& options,
                                                          WeightLoader& loader) {
  return LoadOneOf(kArchitectures, file, config, options, loader);
}

}  // namespace paceline::worker
