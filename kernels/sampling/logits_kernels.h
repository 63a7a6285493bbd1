// Per-instruction-set passes over logits. Plain data (see kernels/README.md). Private to kernels/.
#ifndef PACELINE_KERNELS_SAMPLING_LOGITS_KERNELS_H_
#define PACELINE_KERNELS_SAMPLING_LOGITS_KERNELS_H_

#include <stdint.h>

namespace paceline::kernels {

struct LogitsKernels {
  // The largest logit; *has_nan tells of any NaN. REQUIRES: n > 0.
  float (*max)(const float* logits, int64_t n, bool* has_nan);
  // Index of the first logit equal to `value`, or n.
  int64_t (*find)(const float* logits, int64_t n, float value);
  // sum(exp((logit - max) * scale)) in a fixed order.
  double (*sum_exp)(const float* logits, int64_t n, float max, float scale);
  // Writes ids and logits of those >= threshold (> when `strict`), in order, until `capacity` are
  // written or the end; returns how many and sets *next to where it stopped. Stops only at
  // multiples of 16, so capacity must leave room: REQUIRES capacity >= 16.
  int64_t (*collect)(const float* logits,
                     int64_t begin,
                     int64_t n,
                     float threshold,
                     bool strict,
                     int64_t capacity,
                     int32_t* ids,
                     float* values,
                     int64_t* next);
  int64_t (*count_greater)(const float* logits, int64_t n, float value);
};

extern const LogitsKernels kLogitsPortable;
extern const LogitsKernels kLogitsAvx2;
extern const LogitsKernels kLogitsAvx512;

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SAMPLING_LOGITS_KERNELS_H_
