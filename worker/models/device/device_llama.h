// The Llama family on a device: what llama.h computes, with activations of 16 bits, weights in the
// file's formats, and the KV cache on the device.
#ifndef PACELINE_WORKER_MODELS_DEVICE_DEVICE_LLAMA_H_
#define PACELINE_WORKER_MODELS_DEVICE_DEVICE_LLAMA_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/models/registry.h"

namespace paceline::worker {

// Sizes that the kernels do not have (head_dim, group) are Unimplemented; ResourceExhausted: the
// device's memory does not do.
absl::StatusOr<std::unique_ptr<CausalLm>> LoadDeviceLlama(const model::GgufFile& file,
                                                          const model::ModelConfig& config,
                                                          const ModelOptions& options,
                                                          WeightLoader& loader);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_DEVICE_LLAMA_H_
