// The communicator of ranks on one host: processes, or threads of one, over a ShmGroup. A waiting
// rank spins for a while, then sleeps, so there may be more ranks than cores; asleep, it looks 50
// times a second whether its peers live.
#ifndef PACELINE_WORKER_COMM_SHM_COMMUNICATOR_H_
#define PACELINE_WORKER_COMM_SHM_COMMUNICATOR_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/comm/communicator.h"
#include "worker/comm/shm_group.h"

namespace paceline::worker {

struct ShmOptions {
  int64_t join_timeout_ms = 60'000;
  // How long a rank spins before it sleeps. Negative: 100, or 0 with more ranks than cores.
  int64_t spin_us = -1;
};

// Takes seat `rank` of `group` and waits until every rank has. AlreadyExists: the seat is taken.
// DeadlineExceeded naming the ranks that did not come; the others get Aborted then.
absl::StatusOr<std::unique_ptr<Communicator>> JoinShmGroup(std::shared_ptr<ShmGroup> group,
                                                           int rank,
                                                           const ShmOptions& options);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_SHM_COMMUNICATOR_H_
