// The release's name, shown by `paceline version` and GET /version.
#ifndef PACELINE_CLI_VERSION_H_
#define PACELINE_CLI_VERSION_H_

namespace paceline::cli {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace paceline::cli

#endif  // PACELINE_CLI_VERSION_H_
