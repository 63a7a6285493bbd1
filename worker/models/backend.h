// The kind of device beside the CPU that this binary has code for. Which one is decided by what is
// linked: worker_backend_cuda, _none, or (tests) _emulated; worker_backend is the build's.
#ifndef PACELINE_WORKER_MODELS_BACKEND_H_
#define PACELINE_WORKER_MODELS_BACKEND_H_

#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device/runtime.h"
#include "worker/models/registry.h"

namespace paceline::worker {

struct Backend {
  // Devices that work here. FailedPrecondition says what is missing.
  absl::StatusOr<std::vector<kernels::device::DeviceInfo>> (*list)();
  ModelLoader load;
};

// Null: none. Immutable; any thread.
const Backend* LinkedBackend();

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_BACKEND_H_
