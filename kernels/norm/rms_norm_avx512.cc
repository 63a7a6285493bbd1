// AVX-512 row functions of normalisation. Own -m flags: see kernels/README.md.
#include <immintrin.h>

#include "kernels/norm/norm_kernels.h"
#include "kernels/simd/math_avx512.h"

namespace paceline::kernels {
namespace {

// Squares are summed in double: 2 x 8 lanes, then a fixed tree.
float InverseRms(const float* x, int64_t n, float eps) {
  __m512d sum0 = _mm512_setzero_pd();
  __m512d sum1 = _mm512_setzero_pd();
  for (int64_t i = 0; i < n; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(LaneMask(n - i), x + i);
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
    sum0 = _mm512_fmadd_pd(low, low, sum0);
    sum1 = _mm512_fmadd_pd(high, high, sum1);
  }
  const double mean = _mm512_reduce_add_pd(_mm512_add_pd(sum0, sum1)) / static_cast<double>(n);
  const __m128d root = _mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(mean + static_cast<double>(eps)));
  return static_cast<float>(1.0 / _mm_cvtsd_f64(root));
}

void Scale(const float* x, const float* weight, float scale, int64_t n, float* out) {
  const __m512 s = _mm512_set1_ps(scale);
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = LaneMask(n - i);
    const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), s);
    _mm512_mask_storeu_ps(
        out + i, lanes, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(lanes, weight + i)));
  }
}

void Add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = LaneMask(n - i);
    const __m512 sum =
        _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, x + i), _mm512_maskz_loadu_ps(lanes, y + i));
    _mm512_mask_storeu_ps(x + i, lanes, sum);
  }
}

}  // namespace

const NormKernels kNormAvx512 = {InverseRms, Scale, Add};

}  // namespace paceline::kernels
