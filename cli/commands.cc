#include "cli/commands.h"

#include <cstdio>
#include <string>

#include "cli/version.h"
#include "proto/support/log.h"
#include "proto/support/log_format.h"

namespace paceline::cli {

int Fail(const absl::Status& status) {
  const std::string message(status.message());
  if (LogsJson()) {
    spdlog::critical("{}", message);
  } else {
    std::fprintf(stderr, "paceline: %s\n", message.c_str());
  }
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return 2;
    default:
      return 1;
  }
}

int RunVersion() {
  std::printf("paceline %s\n", kVersion);
  return 0;
}

}  // namespace paceline::cli
