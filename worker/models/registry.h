// Architectures by their name in the model file. To add one: <arch>.cc with a factory, and one line
// in registry.cc. Stateless; any thread.
#ifndef PACELINE_WORKER_MODELS_REGISTRY_H_
#define PACELINE_WORKER_MODELS_REGISTRY_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/gemm/activations.h"
#include "model/config/model_config.h"
#include "model/gguf/gguf_file.h"
#include "worker/models/causal_lm.h"
#include "worker/models/partition.h"
#include "worker/weights/weight_loader.h"

namespace paceline::worker {

struct ModelOptions {
  kernels::ComputeType compute = kernels::ComputeType::kInt8;
  int32_t max_batch_tokens = 0;  // rows of one Forward at most
  int32_t max_logit_rows = 0;    // rows of one ComputeLogits at most
  int32_t max_positions = 0;     // tokens of one sequence at most
  RankPlace place;
  TensorMode tensor_mode = TensorMode::kExact;
};

// Loads `file`'s weights as its architecture says. InvalidArgument names what is wrong with the
// file; Unimplemented names an architecture that is not supported, and those that are.
absl::StatusOr<std::unique_ptr<CausalLm>> LoadModel(const model::GgufFile& file,
                                                    const model::ModelConfig& config,
                                                    const ModelOptions& options,
                                                    WeightLoader& loader);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_REGISTRY_H_
