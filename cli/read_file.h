// Small files: keys, certificates, tokens. Stateless; any thread.
#ifndef PACELINE_CLI_READ_FILE_H_
#define PACELINE_CLI_READ_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline::cli {

// All of `path`. InvalidArgument: "cannot read PATH: why", or more than 1 MiB.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);

// Its lines, without those that are empty or begin with #.
absl::StatusOr<std::vector<std::string>> ReadLines(const std::string& path);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_READ_FILE_H_
