// The command lines of the processes that serve, with what environment and --config add to them:
// read at the start, and again when the configuration changes. Stateless; main thread.
#ifndef PACELINE_CLI_COMMAND_LINE_H_
#define PACELINE_CLI_COMMAND_LINE_H_

#include <map>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/options.h"

namespace paceline::cli {

// `path` gets the value of --config.
CLI::App* AddRouterCommand(CLI::App& app,
                           RouterOptions& options,
                           LogOptions& log,
                           std::string& path);
CLI::App* AddWorkerCommand(CLI::App& app,
                           WorkerOptions& options,
                           LogOptions& log,
                           std::string& path);

// What each option is set to, by its name without dashes; only those that are set.
using Settings = std::map<std::string, std::vector<std::string>>;

template <typename Options>
struct CommandLine {
  Options options;
  LogOptions log;
  std::string config;  // path; empty: none
  Settings settings;
};

// `arguments` are those of the process, the sub-command first. InvalidArgument says what is wrong
// and where, but shows the value of no option that it does not know.
absl::StatusOr<CommandLine<RouterOptions>> ParseRouter(std::vector<std::string> arguments);
absl::StatusOr<CommandLine<WorkerOptions>> ParseWorker(std::vector<std::string> arguments);

// What `app` did not know when it parsed: names only, since what stands behind an unknown one may
// be a key.
absl::Status UnknownArguments(const CLI::App& app);

// The names of those that are set differently.
std::vector<std::string> ChangedSettings(const Settings& before, const Settings& after);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_COMMAND_LINE_H_
