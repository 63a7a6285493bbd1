// The scheduler's record of a request: its live sequences, found by session and id. Owned by
// Scheduler. Engine thread only.
#ifndef PACELINE_WORKER_SCHED_REQUEST_GROUP_H_
#define PACELINE_WORKER_SCHED_REQUEST_GROUP_H_

#include <memory>
#include <vector>

#include "worker/core/sequence.h"

namespace paceline::worker {

struct RequestGroup {
  std::shared_ptr<const Request> request;
  // In order of choice. The choices that wait to fork stand right behind their leader.
  std::vector<std::unique_ptr<Sequence>> sequences;
  bool detached = false;  // no longer found by its id
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SCHED_REQUEST_GROUP_H_
