// Work that the calling thread gives its stream, done at once or, while it captures, kept for a
// graph (kernels/device/runtime.h). Any thread; a graph belongs to one at a time.
#ifndef PACELINE_KERNELS_EMULATION_CAPTURE_H_
#define PACELINE_KERNELS_EMULATION_CAPTURE_H_

#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace paceline::kernels::emulation {

using Work = std::function<absl::Status()>;
using Captured = std::vector<Work>;

// What the calling thread captures; null: it does not.
inline thread_local Captured* t_captured = nullptr;

// `work` has its own copies of what it needs but for the device's memory.
template <typename F>
absl::Status DoOrCapture(F work) {
  if (t_captured == nullptr) return work();
  t_captured->push_back(std::move(work));
  return absl::OkStatus();
}

}  // namespace paceline::kernels::emulation

#endif  // PACELINE_KERNELS_EMULATION_CAPTURE_H_
