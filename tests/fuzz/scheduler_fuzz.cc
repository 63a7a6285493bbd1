// Any bytes are a sequence of scheduler operations (reliability F15, F16): see RunRandomOps.
#include <cstddef>
#include <cstdint>

#include "tests/worker/sched/random_ops.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // Longer runs find nothing that shorter ones do not.
  if (size > 2000) size = 2000;
  paceline::worker::RunRandomOps({data, size});
  return 0;
}
