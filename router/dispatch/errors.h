// The errors that dispatch answers with: constant texts, stable codes. Plain values; any thread.
#ifndef PACELINE_ROUTER_DISPATCH_ERRORS_H_
#define PACELINE_ROUTER_DISPATCH_ERRORS_H_

#include <cstdint>

#include "router/core/api_error.h"

namespace paceline::router {

inline ApiError ModelNotFoundError() {
  return {.status = absl::StatusCode::kNotFound,
          .message = "No replica of this server serves that model",
          .param = "model",
          .code = "model_not_found"};
}
inline ApiError NoReadyReplicaError() {
  return {.status = absl::StatusCode::kUnavailable,
          .message = "No replica of the model is ready",
          .code = "no_ready_replica",
          .retry_after_ms = 2'000};
}
inline ApiError DrainingError() {
  return {.status = absl::StatusCode::kUnavailable,
          .message = "The server is shutting down",
          .code = "draining",
          .retry_after_ms = 1'000};
}
inline ApiError QueueFullError(int64_t retry_after_ms) {
  return {.status = absl::StatusCode::kResourceExhausted,
          .message = "The queue is full",
          .code = "queue_full",
          .retry_after_ms = retry_after_ms};
}
inline ApiError DeadlineError() {
  return {.status = absl::StatusCode::kDeadlineExceeded,
          .message = "The request's deadline passed",
          .code = "deadline_exceeded"};
}
inline ApiError CancelledError() {
  return {.status = absl::StatusCode::kCancelled,
          .message = "The request was cancelled",
          .code = "cancelled"};
}
inline ApiError SlowReaderError() {
  return {.status = absl::StatusCode::kCancelled,
          .message = "The stream was not read for too long",
          .code = "slow_reader"};
}
inline ApiError PoisonError() {
  return {.status = absl::StatusCode::kInternal,
          .message = "The request was running when two replicas failed and is not tried again",
          .code = "poison_suspected"};
}
inline ApiError AttemptsExhaustedError() {
  return {.status = absl::StatusCode::kUnavailable,
          .message = "The replicas that ran the request failed",
          .code = "replica_lost",
          .retry_after_ms = 1'000};
}
// Another one would go on with other bits than those that were sent.
inline ApiError NoEqualReplicaError() {
  return {.status = absl::StatusCode::kUnavailable,
          .message = "No replica is left that would continue this answer exactly",
          .code = "no_equal_replica",
          .retry_after_ms = 1'000};
}
// What no check before the run can see, for example a bias that leaves no token to choose.
inline ApiError WorkerRefusedError() {
  return {.status = absl::StatusCode::kInvalidArgument,
          .message = "The request's parameters leave nothing that could be generated",
          .code = "invalid_request"};
}
// The worker's DATA_LOSS: no other replica would compute anything else.
inline ApiError NumericalError() {
  return {.status = absl::StatusCode::kInternal,
          .message = "The model's output held a NaN or an infinity",
          .code = "numerical"};
}
inline ApiError WorkerFailedError() {
  return {.status = absl::StatusCode::kInternal,
          .message = "The replica could not complete the request",
          .code = "internal_error"};
}

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_ERRORS_H_
