// Architectures that have code for devices, as registry.h's for the CPU. Stateless; any thread.
#ifndef PACELINE_WORKER_MODELS_DEVICE_REGISTRY_H_
#define PACELINE_WORKER_MODELS_DEVICE_REGISTRY_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/models/registry.h"

namespace paceline::worker {

// Onto the device options.device.index. Errors: LoadModel's; Unavailable: the device has failed.
absl::StatusOr<std::unique_ptr<CausalLm>> LoadDeviceModel(const model::GgufFile& file,
                                                          const model::ModelConfig& config,
                                                          const ModelOptions& options,
                                                          WeightLoader& loader);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_REGISTRY_H_
