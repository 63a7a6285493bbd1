// Per-instruction-set row functions of normalisation. Plain data (see kernels/README.md). Private
// to kernels/.
#ifndef PACELINE_KERNELS_NORM_NORM_KERNELS_H_
#define PACELINE_KERNELS_NORM_NORM_KERNELS_H_

#include <stdint.h>

namespace paceline::kernels {

struct NormKernels {
  // 1 / sqrt(mean(x^2) + eps), summed in an order that depends on n alone.
  float (*inverse_rms)(const float* x, int64_t n, float eps);
  // out = (x * scale) * weight
  void (*scale)(const float* x, const float* weight, float scale, int64_t n, float* out);
  // x += y
  void (*add)(float* x, const float* y, int64_t n);
};

extern const NormKernels kNormPortable;
extern const NormKernels kNormAvx2;
extern const NormKernels kNormAvx512;

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_NORM_NORM_KERNELS_H_
