// Random operations on a SchedulerWorld, driven by bytes: the same bytes, the same run. Shared by
// the property test and the fuzz target.
#ifndef PACELINE_TESTS_WORKER_SCHED_RANDOM_OPS_H_
#define PACELINE_TESTS_WORKER_SCHED_RANDOM_OPS_H_

#include <cstdint>

#include "absl/types/span.h"

namespace paceline::worker {

struct RandomOpsReport {
  int64_t steps = 0;
  int64_t finished = 0;
  int64_t preemptions = 0;
  int64_t cached_tokens = 0;
  int64_t copies = 0;
  int64_t evictions = 0;
  int64_t ahead = 0;    // steps planned before the one before them was committed
  int64_t dropped = 0;  // who was taken out of them
};

// Builds a world from the first bytes, applies operations until the bytes end, resumes everything,
// drains, and dies if anything broke: an invariant, an output, the progress of the first in order,
// the bound on the number of steps, a block not returned, an event that does not replay.
RandomOpsReport RunRandomOps(absl::Span<const uint8_t> bytes);

}  // namespace paceline::worker

#endif  // PACELINE_TESTS_WORKER_SCHED_RANDOM_OPS_H_
