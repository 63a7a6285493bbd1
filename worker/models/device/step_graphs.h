// Passes of decoding as graphs: what a pass enqueues is captured when its shape comes for the
// second time, and from then on started with one call instead of one a kernel. The first time it is
// enqueued as it is: so rare shapes are not captured, and kernels are loaded before they are. Owned
// by the model; the thread whose device it is.
#ifndef PACELINE_WORKER_MODELS_DEVICE_STEP_GRAPHS_H_
#define PACELINE_WORKER_MODELS_DEVICE_STEP_GRAPHS_H_

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "kernels/device/runtime.h"

namespace paceline::worker {

// What kernels of a pass are told by value, rounded up; all else they read from the device's
// memory.
struct StepShape {
  int32_t rows = 0;
  int32_t max_pages = 0;
  int32_t num_items = 0;
  int64_t version = 0;  // of where the inputs are

  auto operator<=>(const StepShape&) const = default;
};

class StepGraphs {
 public:
  // Does what `enqueue` does, for `shape` always the same but for memory. Of earlier ones only the
  // last few may be under way. Errors: enqueue's and the device's.
  absl::Status Run(kernels::device::Stream stream,
                   const StepShape& shape,
                   absl::FunctionRef<absl::Status()> enqueue);

  // Graphs hold addresses: forget them when memory moves.
  void Clear() { graphs_.clear(); }

 private:
  struct Destroy {
    void operator()(void* graph) const { kernels::device::DestroyGraph(graph); }
  };
  struct Entry {
    std::unique_ptr<void, Destroy> graph;
    int64_t last_start = 0;
  };

  // The least recently started gives way.
  void Evict();

  std::map<StepShape, Entry> graphs_;
  int64_t num_started_ = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_DEVICE_STEP_GRAPHS_H_
