#include "router/balance/balance.h"

namespace paceline::router {

size_t PickBySession(const RequestView& request, absl::Span<const Candidate> candidates) {
  if (request.session.empty()) return PickLeastLoaded(request, candidates);
  size_t best = 0;
  uint64_t best_weight = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const BlockHash hash = RootBlockHash(candidates[i].replica->id, "", request.session);
    if (i == 0 || hash.high > best_weight) {
      best = i;
      best_weight = hash.high;
    }
  }
  return best;
}

}  // namespace paceline::router
