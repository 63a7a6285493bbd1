// Vector math shared by the tuned files (*_avx512.cc) and only them: every function is static, so
// no AVX-512 copy can leak into code that runs on older processors (kernels/README.md). Stateless.
#ifndef PACELINE_KERNELS_SIMD_MATH_AVX512_H_
#define PACELINE_KERNELS_SIMD_MATH_AVX512_H_

#include <immintrin.h>

namespace paceline::kernels {

// exp(x), within 2 ulp for normal results; 0 for -infinity, infinity above 88.7, NaN for NaN.
[[maybe_unused]] static inline __m512 Exp(__m512 x) {
  // The second operand of min and max is returned for NaN.
  x = _mm512_min_ps(_mm512_set1_ps(200.0f), _mm512_max_ps(_mm512_set1_ps(-200.0f), x));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504089f)),
                                        _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  // Cephes' minimax polynomial of degree 6 on [-ln2/2, ln2/2].
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// The low `count` lanes; all 16 when count >= 16, none when count <= 0.
[[maybe_unused]] static inline __mmask16 LaneMask(long count) {
  if (count >= 16) return 0xffff;
  return count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SIMD_MATH_AVX512_H_
