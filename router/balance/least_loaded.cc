#include <tuple>

#include "router/balance/balance.h"

namespace paceline::router {

bool IsLessLoaded(const ReplicaView& a, const ReplicaView& b) {
  return std::tuple(a.load.sequences, a.load.uncached_tokens) <
         std::tuple(b.load.sequences, b.load.uncached_tokens);
}

size_t PickLeastLoaded(const RequestView& request, absl::Span<const Candidate> candidates) {
  // Starting at a rotating place lets the first of equals be another one each time.
  size_t best = request.serial % candidates.size();
  for (size_t step = 1; step < candidates.size(); ++step) {
    const size_t i = (request.serial + step) % candidates.size();
    if (IsLessLoaded(*candidates[i].replica, *candidates[best].replica)) best = i;
  }
  return best;
}

}  // namespace paceline::router
