// AVX-512 passes over logits. Own -m flags: see kernels/README.md.
#include <immintrin.h>

#include "kernels/sampling/logits_kernels.h"
#include "kernels/simd/math_avx512.h"

namespace paceline::kernels {
namespace {

float Max(const float* logits, int64_t n, bool* has_nan) {
  const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
  __m512 max[4] = {lowest, lowest, lowest, lowest};
  __mmask16 nan = 0;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int j = 0; j < 4; ++j) {
      const __m512 v = _mm512_loadu_ps(logits + i + 16 * j);
      nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
      max[j] = _mm512_max_ps(v, max[j]);  // the second operand wins over NaN
    }
  }
  for (; i < n; i += 16) {
    const __m512 v = _mm512_mask_loadu_ps(lowest, LaneMask(n - i), logits + i);
    nan |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    max[0] = _mm512_max_ps(v, max[0]);
  }
  *has_nan = nan != 0;
  return _mm512_reduce_max_ps(
      _mm512_max_ps(_mm512_max_ps(max[0], max[1]), _mm512_max_ps(max[2], max[3])));
}

int64_t Find(const float* logits, int64_t n, float value) {
  const __m512 target = _mm512_set1_ps(value);
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = LaneMask(n - i);
    const __mmask16 equal = _mm512_mask_cmp_ps_mask(
        lanes, _mm512_maskz_loadu_ps(lanes, logits + i), target, _CMP_EQ_OQ);
    if (equal != 0) return i + __builtin_ctz(equal);
  }
  return n;
}

// 16 float lanes over 128 logits at a time, then added to double lanes; a fixed tree at the end.
double SumExp(const float* logits, int64_t n, float max, float scale) {
  const __m512 m = _mm512_set1_ps(max);
  const __m512 s = _mm512_set1_ps(scale);
  __m512d low = _mm512_setzero_pd();
  __m512d high = _mm512_setzero_pd();
  for (int64_t i = 0; i < n; i += 128) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t j = i; j < n && j < i + 128; j += 16) {
      const __mmask16 lanes = LaneMask(n - j);
      const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, logits + j), m);
      sum = _mm512_mask_add_ps(sum, lanes, sum, Exp(_mm512_mul_ps(x, s)));
    }
    low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(sum)));
    high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(sum, 1)));
  }
  return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
}

int64_t Collect(const float* logits,
                int64_t begin,
                int64_t n,
                float threshold,
                bool strict,
                int64_t capacity,
                int32_t* ids,
                float* values,
                int64_t* next) {
  const __m512 bar = _mm512_set1_ps(threshold);
  const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t count = 0;
  int64_t i = begin;
  for (; i < n && count + 16 <= capacity; i += 16) {
    const __mmask16 lanes = LaneMask(n - i);
    const __m512 v = _mm512_maskz_loadu_ps(lanes, logits + i);
    const __mmask16 past = strict ? _mm512_mask_cmp_ps_mask(lanes, v, bar, _CMP_GT_OQ)
                                  : _mm512_mask_cmp_ps_mask(lanes, v, bar, _CMP_GE_OQ);
    if (past == 0) continue;
    // Compress in registers, then store: compress to memory is microcoded on Zen 4.
    const __m512i id = _mm512_add_epi32(iota, _mm512_set1_epi32(static_cast<int32_t>(i)));
    _mm512_storeu_si512(ids + count, _mm512_maskz_compress_epi32(past, id));
    _mm512_storeu_ps(values + count, _mm512_maskz_compress_ps(past, v));
    count += __builtin_popcount(past);
  }
  *next = i < n ? i : n;
  return count;
}

int64_t CountGreater(const float* logits, int64_t n, float value) {
  const __m512 bar = _mm512_set1_ps(value);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 lanes = LaneMask(n - i);
    const __m512 v = _mm512_maskz_loadu_ps(lanes, logits + i);
    count += __builtin_popcount(_mm512_mask_cmp_ps_mask(lanes, v, bar, _CMP_GT_OQ));
  }
  return count;
}

}  // namespace

const LogitsKernels kLogitsAvx512 = {Max, Find, SumExp, Collect, CountGreater};

}  // namespace paceline::kernels
