// Turns a Submit message into a Request, and checks it: the worker trusts no router. Stateless; any
// thread.
#ifndef PACELINE_WORKER_SERVICE_SUBMIT_H_
#define PACELINE_WORKER_SERVICE_SUBMIT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/paceline/v1/worker.pb.h"
#include "worker/core/request.h"

namespace paceline::worker {

struct SubmitLimits {
  int32_t vocab_size = 0;
  int32_t max_model_len = 0;
};

// InvalidArgument names the field: an id outside the vocabulary, a value outside its range (those
// of inference.proto), lists of different lengths, no prompt.
absl::StatusOr<Request> RequestFromSubmit(const v1::Submit& submit,
                                          const SubmitLimits& limits,
                                          uint64_t session,
                                          int64_t now_ns);  // the engine's clock

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SERVICE_SUBMIT_H_
