// The one order of additions of every all-reduce. Stateless; any thread.
#ifndef PACELINE_WORKER_COMM_SUM_H_
#define PACELINE_WORKER_COMM_SUM_H_

#include <cstdint>

#include "absl/types/span.h"
#include "worker/comm/communicator.h"

namespace paceline::worker {

int64_t BytesOf(SumType type);

// out[i] = ((parts[0][i] + parts[1][i]) + parts[2][i]) + … for `count` elements of `type`.
// `out` may be one of the parts. REQUIRES: at least one part.
void SumInOrder(absl::Span<const void* const> parts, int64_t count, SumType type, void* out);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_SUM_H_
