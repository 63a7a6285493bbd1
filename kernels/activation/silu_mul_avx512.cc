// AVX-512 row functions of activations. Own -m flags: see kernels/README.md.
#include <immintrin.h>

#include "kernels/activation/activation_kernels.h"
#include "kernels/simd/math_avx512.h"

namespace paceline::kernels {
namespace {

void SiluMulRow(const float* gate, const float* up, int64_t n, float* out) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = LaneMask(n - i);
    const __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i);
    const __m512 u = _mm512_maskz_loadu_ps(lanes, up + i);
    const __m512 e = Exp(_mm512_sub_ps(_mm512_setzero_ps(), g));
    const __m512 silu = _mm512_div_ps(g, _mm512_add_ps(one, e));
    _mm512_mask_storeu_ps(out + i, lanes, _mm512_mul_ps(silu, u));
  }
}

}  // namespace

const ActivationKernels kActivationAvx512 = {SiluMulRow};

}  // namespace paceline::kernels
