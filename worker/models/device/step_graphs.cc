#include "worker/models/device/step_graphs.h"

#include <algorithm>
#include <utility>

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
  auto found = graphs_.find(shape);
  if (found == graphs_.end()) {
    RETURN_IF_ERROR(device::BeginCapture(stream));
    const absl::Status enqueued = enqueue();
    ASSIGN_OR_RETURN(const device::Graph captured, device::EndCapture(stream));
    Entry entry;
    entry.graph.reset(captured);
    RETURN_IF_ERROR(enqueued);
    if (graphs_.size() >= kMaxGraphs) Evict();
    found = graphs_.emplace(shape, std::move(entry)).first;
  }
  found->second.last_start = ++num_started_;
  return device::LaunchGraph(stream, found->second.graph.get());
}

void StepGraphs::Evict() {
  graphs_.erase(std::min_element(graphs_.begin(), graphs_.end(), [](const auto& a, const auto& b) {
    return a.second.last_start < b.second.last_start;
  }));
}

}  // namespace paceline::worker
