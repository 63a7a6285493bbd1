// Per-instruction-set row functions of activations. Plain data (see kernels/README.md). Private to
// kernels/.
#ifndef PACELINE_KERNELS_ACTIVATION_ACTIVATION_KERNELS_H_
#define PACELINE_KERNELS_ACTIVATION_ACTIVATION_KERNELS_H_

#include <stdint.h>

namespace paceline::kernels {

struct ActivationKernels {
  // out = silu(gate) * up
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
};

extern const ActivationKernels kActivationPortable;
extern const ActivationKernels kActivationAvx2;
extern const ActivationKernels kActivationAvx512;

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ACTIVATION_ACTIVATION_KERNELS_H_
