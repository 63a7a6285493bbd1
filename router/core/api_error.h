// An error as clients see it, on gRPC and HTTP alike. A plain value; any thread.
//
// Texts are ours and constant: they may name a field, a limit or a count, never bytes that the user
// sent, paths or addresses.
#ifndef PACELINE_ROUTER_CORE_API_ERROR_H_
#define PACELINE_ROUTER_CORE_API_ERROR_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace paceline::router {

struct ApiError {
  absl::StatusCode status = absl::StatusCode::kInternal;
  std::string message;
  std::string param;  // the request field at fault; empty: none
  std::string code;   // machine-readable reason, for example context_length, queue_full
  int64_t retry_after_ms = 0;  // > 0: when to try again
  int http_status = 0;         // 0: the one that belongs to `status`
};

// 400 naming the field.
inline ApiError InvalidParam(std::string param, std::string message, std::string code = "") {
  return ApiError{.status = absl::StatusCode::kInvalidArgument,
                  .message = std::move(message),
                  .param = std::move(param),
                  .code = std::move(code)};
}

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_CORE_API_ERROR_H_
