// --config FILE: a YAML map from long option names to values. Stateless; main thread.
#ifndef PACELINE_CLI_CONFIG_FILE_H_
#define PACELINE_CLI_CONFIG_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline::cli {

// `arguments` are those of the command line, the sub-command first. When they (or the environment's
// PACELINE_CONFIG) name a file, its entries are added as options, except those that the command
// line or the environment (PACELINE_<OPTION>) sets: they win. Unknown keys become unknown options,
// which the parser refuses by name. InvalidArgument, naming the file, when it cannot be read or is
// no map of options.
absl::StatusOr<std::vector<std::string>> WithConfigFile(std::vector<std::string> arguments);

// `arguments`, with what the environment sets as arguments too: for a process that does not get
// that environment. `names`: of all options.
std::vector<std::string> WithEnvironment(std::vector<std::string> arguments,
                                         const std::vector<std::string>& names);

// PACELINE_MAX_MODEL_LEN for max-model-len.
std::string EnvironmentName(const std::string& long_name);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_CONFIG_FILE_H_
