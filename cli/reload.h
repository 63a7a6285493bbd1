// --config while a process runs: read again, and what can take effect without a restart does; what
// cannot is named. Owned by the process; main thread.
#ifndef PACELINE_CLI_RELOAD_H_
#define PACELINE_CLI_RELOAD_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/command_line.h"
#include "cli/file_watch.h"
#include "cli/router_servers.h"
#include "router/dispatch/router_core.h"

namespace paceline::cli {

class RouterReload {
 public:
  // `arguments`: the process's. `core` and `servers` must outlive it.
  RouterReload(std::vector<std::string> arguments,
               CommandLine<RouterOptions> running,
               router::RouterCore& core,
               RouterServers& servers);

  // InvalidArgument, and nothing has changed: what is wrong in the file, or does not fit the
  // command line. FailedPrecondition: what needs a restart; the rest is in force.
  absl::Status Read();

  int32_t drain_seconds() const { return running_.options.drain_seconds; }

 private:
  const std::vector<std::string> arguments_;
  CommandLine<RouterOptions> running_;
  router::RouterCore& core_;
  RouterServers& servers_;
};

class WorkerReload {
 public:
  WorkerReload(std::vector<std::string> arguments, CommandLine<WorkerOptions> running);

  // As RouterReload::Read.
  absl::Status Read();

  int32_t drain_seconds() const { return running_.options.drain_seconds; }

 private:
  const std::vector<std::string> arguments_;
  CommandLine<WorkerOptions> running_;
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_RELOAD_H_
