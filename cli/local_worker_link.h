// A WorkerLink to an engine in this process: the offline command runs the same router core as a
// server, without sockets. Owned by the fleet.
#ifndef PACELINE_CLI_LOCAL_WORKER_LINK_H_
#define PACELINE_CLI_LOCAL_WORKER_LINK_H_

#include "cli/loaded_model.h"
#include "router/fleet/worker_link.h"

namespace paceline::cli {

// `model` must outlive every link.
router::WorkerLinkFactory LocalWorkerLinkFactory(LoadedModel& model);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_LOCAL_WORKER_LINK_H_
