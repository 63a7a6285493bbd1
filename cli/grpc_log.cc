#include "cli/grpc_log.h"

#include "grpc/support/log.h"
#include "proto/support/log.h"
#include "proto/support/log_limit.h"

namespace paceline::cli {
namespace {

void Log(gpr_log_func_args* line) {
  static LogLimit limit;
  if (line->severity < GPR_LOG_SEVERITY_ERROR) return spdlog::debug("grpc: {}", line->message);
  if (limit.Take()) spdlog::warn("grpc: {}", line->message);
}

}  // namespace

void LogForGrpc() { gpr_set_log_function(&Log); }

}  // namespace paceline::cli
