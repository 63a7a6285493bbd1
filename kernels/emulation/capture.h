// Work that the calling thread gives a stream, done at once, or by the stream's own thread, or,
// while it captures, kept for a graph (kernels/device/runtime.h). Any thread; a graph belongs to
// one at a time.
#ifndef PACELINE_KERNELS_EMULATION_CAPTURE_H_
#define PACELINE_KERNELS_EMULATION_CAPTURE_H_

#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"

namespace paceline::kernels::emulation {

using Work = std::function<absl::Status()>;
using Captured = std::vector<Work>;

// What the calling thread captures; null: it does not.
inline thread_local Captured* t_captured = nullptr;

// To the thread of a stream that is not null.
void Submit(device::Stream stream, Work work);

// `work` has its own copies of what it needs but for the device's memory.
template <typename F>
absl::Status DoOrCapture(device::Stream stream, F work) {
  if (t_captured != nullptr) {
    t_captured->push_back(std::move(work));
  } else if (stream != nullptr) {
    Submit(stream, std::move(work));
  } else {
    return work();
  }
  return absl::OkStatus();
}

}  // namespace paceline::kernels::emulation

#endif  // PACELINE_KERNELS_EMULATION_CAPTURE_H_
