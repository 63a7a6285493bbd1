// A worker of several ranks, one process each: the supervisor that starts them and starts them anew
// when one is lost, and what a rank does first. Main thread only.
#ifndef PACELINE_CLI_RANKS_H_
#define PACELINE_CLI_RANKS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/options.h"
#include "worker/runner/rank_group.h"

namespace paceline::cli {

// Starts the ranks of the worker with these arguments and tends them until SIGINT or SIGTERM, which
// ends them in order. The arguments, and the file of --config, are read at each start; between
// starts rank 0 follows the file.
// InvalidArgument when the model cannot be shared so or a rank refuses its options; Internal when
// they died five times in ten minutes.
absl::Status SuperviseRanks(const std::vector<std::string>& arguments);

// This rank's group. Errors: those of joining, which name the ranks that did not come;
// FailedPrecondition when the leader is of another group.
absl::StatusOr<std::unique_ptr<worker::RankGroup>> JoinRanks(const WorkerOptions& options);

// A rank that is not the leader, until the leader ends it.
absl::Status RunOtherRank(const WorkerOptions& options, worker::RankGroup& group);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_RANKS_H_
