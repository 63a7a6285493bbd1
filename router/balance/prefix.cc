#include <algorithm>
#include <tuple>

#include "router/balance/balance.h"

namespace paceline::router {
namespace {

int64_t Cost(const RequestView& request, const Candidate& candidate) {
  const ReplicaView& replica = *candidate.replica;
  const int64_t own_tokens = std::max<int64_t>(request.prompt_tokens - candidate.matched_tokens, 0);
  return BlocksFor(replica.load.uncached_tokens + own_tokens, replica.block_size) +
         replica.load.blocks;
}

}  // namespace

size_t PickByPrefix(const RequestView& request, absl::Span<const Candidate> candidates) {
  size_t best = 0;
  // Equal cost: fewer sequences, then the place in a rotation, so that ties do not pile up on one.
  const auto rank = [&](size_t i) {
    return std::tuple(Cost(request, candidates[i]),
                      candidates[i].replica->load.sequences,
                      (i + request.serial) % candidates.size());
  };
  for (size_t i = 1; i < candidates.size(); ++i) {
    if (rank(i) < rank(best)) best = i;
  }
  return best;
}

}  // namespace paceline::router
