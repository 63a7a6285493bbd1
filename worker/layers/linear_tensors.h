// The tensors of a linear layer in a model file: which of them become one matrix, and the bias.
// Stateless; used while loading.
#ifndef PACELINE_WORKER_LAYERS_LINEAR_TENSORS_H_
#define PACELINE_WORKER_LAYERS_LINEAR_TENSORS_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "worker/weights/weight_loader.h"

namespace paceline::worker {

// Fills `weights` with "<name>.weight" of each layer and returns the runs of adjacent ones that
// have one format: packed as one matrix they cost one pass. The runs are views into `weights`.
std::vector<absl::Span<const TensorRows>> RunsOfOneFormat(const WeightLoader& loader,
                                                          absl::Span<const TensorRows> layers,
                                                          std::vector<TensorRows>& weights);

// "<name>.bias" of each layer that has one, one behind the other, 0 for the others; empty when none
// has. Of layers cut by columns and added up, the first has it. NotFound: a weight is missing;
// InvalidArgument: a bias has another size than its weight.
absl::StatusOr<std::vector<float>> LoadBias(WeightLoader& loader,
                                            absl::Span<const TensorRows> layers);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_LAYERS_LINEAR_TENSORS_H_
