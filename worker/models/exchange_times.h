// What exchanges between the devices of ranks take, measured in one pass of many: sums of those
// passes. Owned by the rank; its engine thread or rank loop only.
#ifndef PACELINE_WORKER_MODELS_EXCHANGE_TIMES_H_
#define PACELINE_WORKER_MODELS_EXCHANGE_TIMES_H_

#include <cstdint>

namespace paceline::worker {

struct ExchangeTimes {
  int64_t timed_ns = 0;     // of the passes through this rank's layers
  int64_t exchange_ns = 0;  // of these, in exchanges within the layers
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_MODELS_EXCHANGE_TIMES_H_
