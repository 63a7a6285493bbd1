// The CPU's model as a device's behaves: Forward returns before its work is done, and rows of
// logits are sampled where they are. Owned by the model shard; one thread, and one of its own.
#ifndef PACELINE_TESTS_FAKES_EARLY_MODEL_H_
#define PACELINE_TESTS_FAKES_EARLY_MODEL_H_

#include <cstdint>
#include <memory>

#include "worker/models/registry.h"

namespace paceline::worker {

// LoadModel's errors. REQUIRES: one rank.
absl::StatusOr<std::unique_ptr<CausalLm>> LoadEarlyModel(const model::GgufFile& file,
                                                         const model::ModelConfig& config,
                                                         const ModelOptions& options,
                                                         WeightLoader& loader);

// How often any of them ran a pass for tokens that were not known when it was started.
int64_t NumPassesAhead();

}  // namespace paceline::worker

#endif  // PACELINE_TESTS_FAKES_EARLY_MODEL_H_
