#include "cli/commands.h"

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
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

std::string VersionText() { return absl::StrCat("paceline ", kVersion); }

int RunVersion() {
  std::printf("%s\n", VersionText().c_str());
  return 0;
}

}  // namespace paceline::cli
