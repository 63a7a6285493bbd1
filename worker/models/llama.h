// The Llama family: pre-norm decoder layers of grouped-query attention with rotary positions and a
// SiLU-gated feed-forward block (Touvron et al. 2023; weight names as in GGUF files).
#ifndef PACELINE_WORKER_MODELS_LLAMA_H_
#define PACELINE_WORKER_MODELS_LLAMA_H_

#include <memory>

#include "absl/status/statusor.h"
#include "worker/models/registry.h"

namespace paceline::worker {

absl::StatusOr<std::unique_ptr<CausalLm>> LoadLlama(const model::GgufFile& file,
                                                    const model::ModelConfig& config,
                                                    const ModelOptions& options,
                                                    WeightLoader& loader);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_LLAMA_H_
