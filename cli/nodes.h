// Where a replica's ranks run when one host is not enough: options, or the environment that a
// Kubernetes LeaderWorkerSet gives its pods. Stateless; any thread.
#ifndef PACELINE_CLI_NODES_H_
#define PACELINE_CLI_NODES_H_

#include <functional>

#include "absl/status/status.h"
#include "cli/options.h"

namespace paceline::cli {

// Settles `options.nodes`: what was not given is taken from LWS_GROUP_SIZE, LWS_WORKER_INDEX and
// LWS_LEADER_ADDRESS, and else is one host. `environment` returns null for what is not set.
// InvalidArgument names the option or variable that is missing, wrong or does not fit the ranks.
absl::Status SettleNodes(const std::function<const char*(const char* name)>& environment,
                         WorkerOptions& options);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_NODES_H_
