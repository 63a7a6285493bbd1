#include "worker/models/device/step_graphs.h"

#include <algorithm>

#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;

// A few megabytes each.
constexpr size_t kMaxGraphs = 128;

}  // namespace

absl::Status StepGraphs::Run(device::Stream stream,
                             const StepShape& shape,
                             absl::FunctionRef<absl::Status()> enqueue) {
  const auto [found, is_new] = graphs_.try_emplace(shape);
  Entry& entry = found->second;
  entry.last_start = ++num_started_;
  if (is_new) {
    if (graphs_.size() > kMaxGraphs) Evict();
    return enqueue();
  }
  if (entry.graph == nullptr) {
    RETURN_IF_ERROR(device::BeginCapture(stream));
    const absl::Status enqueued = enqueue();
    ASSIGN_OR_RETURN(const device::Graph captured, device::EndCapture(stream));
    entry.graph.reset(captured);
    if (!enqueued.ok()) {
      graphs_.erase(found);
      return enqueued;
    }
  }
  return device::LaunchGraph(stream, entry.graph.get());
}

void StepGraphs::Evict() {
  graphs_.erase(std::min_element(graphs_.begin(), graphs_.end(), [](const auto& a, const auto& b) {
    return a.second.last_start < b.second.last_start;
  }));
}

}  // namespace paceline::worker
