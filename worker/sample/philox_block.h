// Philox words of 64 consecutive tokens at a time, one function per instruction set; all give the
// same words. Private to worker/sample. Stateless; any thread.
#ifndef PACELINE_WORKER_SAMPLE_PHILOX_BLOCK_H_
#define PACELINE_WORKER_SAMPLE_PHILOX_BLOCK_H_

#include <cstdint>

#include "kernels/dispatch.h"
#include "worker/sample/philox.h"

namespace paceline::worker {

inline constexpr int32_t kPhiloxBlockTokens = 64;
inline constexpr int32_t kPhiloxBlockCounters = kPhiloxBlockTokens / 4;

struct PhiloxBlockTable {
  // The words of counters first .. first + (0..15, 0, 0, 0) into words[lane][counter]. Returns
  // whether any of them is at least `cutoff`; words may be left unset when none is.
  // REQUIRES: first[0] + 15 does not wrap.
  bool (*words_at_least)(const uint32_t* first,  // [4]
                         const uint32_t* key,    // [2]
                         uint32_t cutoff,
                         uint32_t words[4][kPhiloxBlockCounters]);
  // The largest of 64 floats, none of them NaN.
  float (*max64)(const float* values);
};

extern const kernels::IsaTables<PhiloxBlockTable> kPhiloxBlock;
extern const PhiloxBlockTable kPhiloxBlockAvx2;
extern const PhiloxBlockTable kPhiloxBlockAvx512;

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SAMPLE_PHILOX_BLOCK_H_
