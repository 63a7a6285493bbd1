// The largest logit of a row of which each rank of a stage has a part. Stateless; any thread.
#ifndef PACELINE_WORKER_MODELS_BEST_LOGIT_H_
#define PACELINE_WORKER_MODELS_BEST_LOGIT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/comm/communicator.h"

namespace paceline::worker {

// What a greedy choice needs to know of a row of logits.
struct BestLogit {
  int32_t id = -1;  // of the largest; the lowest of equals
  float logit = 0;
  int32_t is_finite = 0;  // whether all are
};

// Of one rank's part; ids count from its beginning. REQUIRES: not empty.
BestLogit BestOf(absl::Span<const float> logits);

// Every rank has the best of its part of each row, ids counted from the row's beginning; then all
// have the best of whole rows. Nothing to do without a communicator. Errors: the communicator's.
absl::Status MergeBest(Communicator* comm, absl::Span<BestLogit> best);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_BEST_LOGIT_H_
