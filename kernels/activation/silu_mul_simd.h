// Activations over 16 lanes; V is Avx2 or Avx512. Only for tuned files (kernels/README.md).
#ifndef PACELINE_KERNELS_ACTIVATION_SILU_MUL_SIMD_H_
#define PACELINE_KERNELS_ACTIVATION_SILU_MUL_SIMD_H_

#include "kernels/activation/activation_kernels.h"
#include "kernels/simd/math.h"

namespace paceline::kernels {
namespace {

template <typename V>
void SiluMulRow(const float* gate, const float* up, int64_t n, float* out) {
  using F32 = typename V::F32;
  for (int64_t i = 0; i < n; i += 16) {
    const F32 g = V::LoadFirst(gate + i, n - i);
    const F32 u = V::LoadFirst(up + i, n - i);
    const F32 silu = g / (V::All(1.0f) + Exp<V>(V::All(0.0f) - g));
    V::StoreFirst(out + i, silu * u, n - i);
  }
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ACTIVATION_SILU_MUL_SIMD_H_
