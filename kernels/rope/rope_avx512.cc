// AVX-512 functions of rotary embedding. Own -m flags: see kernels/README.md.
#include <immintrin.h>

#include "kernels/rope/rope_kernels.h"
#include "kernels/simd/math_avx512.h"

namespace paceline::kernels {
namespace {

void TurnInterleaved(float* head, const float* cosine, const float* sine, int32_t pairs) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  for (int32_t i = 0; i < pairs; i += 8) {
    const int32_t count = pairs - i < 8 ? pairs - i : 8;
    const __mmask16 lanes = LaneMask(2 * count);
    const __mmask16 angles = LaneMask(count);
    const __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(angles, cosine + i));
    const __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(angles, sine + i));
    const __m512 ab = _mm512_maskz_loadu_ps(lanes, head + 2 * i);
    const __m512 ba = _mm512_permute_ps(ab, 0xb1);
    // Even lanes subtract, odd lanes add.
    const __m512 turned = _mm512_fmaddsub_ps(ab, c, _mm512_mul_ps(ba, s));
    _mm512_mask_storeu_ps(head + 2 * i, lanes, turned);
  }
}

void TurnHalves(float* head, const float* cosine, const float* sine, int32_t pairs) {
  for (int32_t i = 0; i < pairs; i += 16) {
    const __mmask16 lanes = LaneMask(pairs - i);
    const __m512 c = _mm512_maskz_loadu_ps(lanes, cosine + i);
    const __m512 s = _mm512_maskz_loadu_ps(lanes, sine + i);
    const __m512 a = _mm512_maskz_loadu_ps(lanes, head + i);
    const __m512 b = _mm512_maskz_loadu_ps(lanes, head + pairs + i);
    _mm512_mask_storeu_ps(head + i, lanes, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
    _mm512_mask_storeu_ps(head + pairs + i, lanes, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
  }
}

}  // namespace

const RopeKernels kRopeAvx512 = {TurnInterleaved, TurnHalves};

}  // namespace paceline::kernels
