// The sub-commands of `paceline`. Each runs to its end on the main thread and returns the process's
// exit status: 0 done, 1 failed, 2 wrong usage or configuration.
#ifndef PACELINE_CLI_COMMANDS_H_
#define PACELINE_CLI_COMMANDS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "cli/options.h"

namespace paceline::cli {

int RunServe(const ServeOptions& options, const LogOptions& log);
// `arguments`: the process's, the sub-command first; read again when the configuration changes.
int RunRouter(const RouterOptions& options,
              const LogOptions& log,
              const std::vector<std::string>& arguments);
int RunWorker(const WorkerOptions& options,
              const LogOptions& log,
              const std::vector<std::string>& arguments);
int RunGenerate(const GenerateOptions& options, const LogOptions& log);
int RunChat(const ChatOptions& options);
int RunHealth(const HealthOptions& options);
int RunTokenize(const TokenizeOptions& options);
int RunBench(const BenchOptions& options, const LogOptions& log);
std::string VersionText();
int RunVersion();

// Prints "paceline: <message>", or logs it where the log is JSON, and returns the exit status for
// it: 2 for what the user can mend (InvalidArgument, NotFound, …), else 1.
int Fail(const absl::Status& status);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_COMMANDS_H_
