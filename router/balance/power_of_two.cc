#include "router/balance/balance.h"

namespace paceline::router {

size_t PickPowerOfTwo(const RequestView& request, absl::Span<const Candidate> candidates) {
  const size_t count = candidates.size();
  if (count == 1) return 0;
  const size_t first = (request.random >> 32) % count;
  size_t second = (request.random & 0xffffffff) % (count - 1);
  if (second >= first) ++second;  // another one than the first
  return IsLessLoaded(*candidates[second].replica, *candidates[first].replica) ? second : first;
}

}  // namespace paceline::router
