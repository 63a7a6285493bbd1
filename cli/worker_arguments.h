// The command line of a worker process that another process starts. Stateless; any thread.
#ifndef PACELINE_CLI_WORKER_ARGUMENTS_H_
#define PACELINE_CLI_WORKER_ARGUMENTS_H_

#include <string>
#include <vector>

#include "cli/options.h"

namespace paceline::cli {

// Arguments (after the program's name) that parse to these options; nothing else configures it.
std::vector<std::string> WorkerArguments(const WorkerOptions& options, const LogOptions& log);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_WORKER_ARGUMENTS_H_
