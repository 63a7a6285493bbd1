// Per-instruction-set functions of rotary embedding. Plain data (see kernels/README.md). Private to
// kernels/.
#ifndef PACELINE_KERNELS_ROPE_ROPE_KERNELS_H_
#define PACELINE_KERNELS_ROPE_ROPE_KERNELS_H_

#include <stdint.h>

namespace paceline::kernels {

// Each turns the first 2 * pairs elements of one head: (a, b) -> (a cos - b sin, a sin + b cos).
struct RopeKernels {
  void (*interleaved)(float* head, const float* cosine, const float* sine, int32_t pairs);
  void (*half)(float* head, const float* cosine, const float* sine, int32_t pairs);
};

extern const RopeKernels kRopePortable;
extern const RopeKernels kRopeAvx2;
extern const RopeKernels kRopeAvx512;

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ROPE_ROPE_KERNELS_H_
