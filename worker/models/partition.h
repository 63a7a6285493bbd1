// Which part of a model each rank of a replica holds: a pipeline stage is a contiguous range of
// layers, and the ranks of a stage share each of its layers. Nothing need divide evenly. Stateless;
// any thread.
#ifndef PACELINE_WORKER_MODELS_PARTITION_H_
#define PACELINE_WORKER_MODELS_PARTITION_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/cpu/thread_pool.h"
#include "model/config/model_config.h"
#include "worker/layers/attention.h"
#include "worker/layers/shares.h"

namespace paceline::worker {

// A rank's place in its replica. Rank r of the replica is tensor rank r % T of stage r / T.
struct RankPlace {
  int32_t tensor_rank = 0;
  int32_t tensor_size = 1;
  int32_t stage = 0;
  int32_t num_stages = 1;

  static RankPlace Of(int32_t rank, int32_t tensor_size, int32_t num_stages) {
    return {rank % tensor_size, tensor_size, rank / tensor_size, num_stages};
  }
  int32_t num_ranks() const { return tensor_size * num_stages; }
  bool is_first_stage() const { return stage == 0; }
  bool is_last_stage() const { return stage == num_stages - 1; }
};

struct Partition {
  kernels::WorkRange layers;
  AttentionSizes attention;  // query heads by KV head; a KV head is on several ranks when there are
                             // more of them than KV heads
  Shares hidden = Shares::Whole(0);
  Shares inner = Shares::Whole(0);       // of the feed-forward block
  Shares vocabulary = Shares::Whole(0);  // rows of embedding and head
};

// InvalidArgument when a rank would be left without heads, columns or layers.
absl::StatusOr<Partition> PartitionModel(const model::ModelConfig& config, const RankPlace& place);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_PARTITION_H_
