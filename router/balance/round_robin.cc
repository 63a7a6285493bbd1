#include "router/balance/balance.h"

namespace paceline::router {

size_t PickRoundRobin(const RequestView& request, absl::Span<const Candidate> candidates) {
  return request.serial % candidates.size();
}

}  // namespace paceline::router
