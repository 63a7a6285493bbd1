// What ends a rank that hangs while its group is over. On one host the supervisor does; across
// hosts nobody else would: a rank that is stuck or stopped does not see that its peers have gone,
// and its node would never be free to start anew. Main thread only.
#ifndef PACELINE_CLI_RANK_GUARD_H_
#define PACELINE_CLI_RANK_GUARD_H_

#include <vector>

#include "absl/status/status.h"
#include "worker/comm/socket.h"

namespace paceline::cli {

// Forks a process that kills this one if it still runs 2 s after one of `peers`, connections to
// the other ranks, has closed. It reads nothing from them and ends with this process.
// REQUIRES: this process has no other threads. Internal: the system refuses.
absl::Status StartRankGuard(const std::vector<worker::Socket>& peers);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_RANK_GUARD_H_
