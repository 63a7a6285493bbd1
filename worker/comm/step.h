// What a rank says about the operation it is in, so that ranks which disagree fail instead of
// mixing up data. Plain values in shared memory and on the wire. Stateless; any thread.
#ifndef PACELINE_WORKER_COMM_STEP_H_
#define PACELINE_WORKER_COMM_STEP_H_

#include <cstdint>

#include "absl/status/status.h"
#include "worker/comm/communicator.h"

namespace paceline::worker {

enum class Operation : uint32_t { kAllReduce = 1, kAllGather, kBroadcast, kSend };

struct Step {
  Operation operation;
  uint32_t detail;  // all_reduce: SumType; broadcast: root
  uint64_t size;    // of the data; all_gather: a hash of the sizes of all shares

  bool operator==(const Step&) const = default;
};

Step AllReduceStep(int64_t count, SumType type);
Step AllGatherStep(int64_t num_rows, absl::Span<const int64_t> end_bytes);
Step BroadcastStep(int64_t bytes, int root);
Step SendStep(int64_t bytes);

// FailedPrecondition naming both operations unless `theirs`, of rank `peer`, is `ours`.
absl::Status CheckSameStep(const Step& ours, const Step& theirs, int peer);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_STEP_H_
