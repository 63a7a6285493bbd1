// Per-instruction-set row functions of the KV cache. Plain data (see kernels/README.md). Private to
// kernels/.
#ifndef PACELINE_KERNELS_KV_CACHE_KV_KERNELS_H_
#define PACELINE_KERNELS_KV_CACHE_KV_KERNELS_H_

#include <stdint.h>

namespace paceline::kernels {

struct KvKernels {
  // n floats -> n halves, to nearest even.
  void (*to_half)(const float* x, int64_t n, uint16_t* out);
  // n floats, a multiple of 16, -> n integers within +-127, to nearest even, and the scale by which
  // they are multiplied: the largest |x| / 127. NaN when one is not finite.
  float (*to_int8)(const float* x, int64_t n, int8_t* out);
};

extern const KvKernels kKvPortable;
extern const KvKernels kKvAvx2;
extern const KvKernels kKvAvx512;

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_KV_CACHE_KV_KERNELS_H_
