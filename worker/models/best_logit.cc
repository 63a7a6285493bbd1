#include "worker/models/best_logit.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/sampling/logits.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

BestLogit BestOf(absl::Span<const float> logits) {
  const kernels::LogitSummary summary = kernels::ArgMax(logits);
  constexpr float kMasked = -std::numeric_limits<float>::infinity();
  const bool is_finite = summary.finite && kernels::CountGreater(logits, kMasked) ==
                                               static_cast<int64_t>(logits.size());
  return {summary.best.id, summary.best.logit, is_finite ? 1 : 0};
}

absl::Status MergeBest(Communicator* comm, absl::Span<BestLogit> best) {
  if (comm == nullptr) return absl::OkStatus();
  const auto ranks = static_cast<size_t>(comm->size());
  const auto width = static_cast<int64_t>(best.size() * sizeof(BestLogit));
  std::vector<BestLogit> all(ranks * best.size());
  std::vector<int64_t> ends;
  for (size_t rank = 1; rank <= ranks; ++rank) ends.push_back(static_cast<int64_t>(rank) * width);
  std::copy(best.begin(), best.end(), all.begin() + comm->rank() * best.size());
  RETURN_IF_ERROR(comm->AllGatherColumns(all.data(), 1, ends.back(), ends));
  for (size_t i = 0; i < best.size(); ++i) {
    best[i] = all[i];
    for (size_t rank = 1; rank < ranks; ++rank) {
      const BestLogit& other = all[rank * best.size() + i];
      const int32_t is_finite = best[i].is_finite & other.is_finite;
      if (kernels::RanksBefore({other.id, other.logit}, {best[i].id, best[i].logit})) {
        best[i] = other;
      }
      best[i].is_finite = is_finite;
    }
  }
  return absl::OkStatus();
}

}  // namespace paceline::worker
