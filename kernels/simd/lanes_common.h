// What the instruction sets' lanes share: reductions of a vector of 16 lanes folded in half, by one
// tree for all. Only for tuned files (kernels/README.md). Stateless.
#ifndef PACELINE_KERNELS_SIMD_LANES_COMMON_H_
#define PACELINE_KERNELS_SIMD_LANES_COMMON_H_

#include <immintrin.h>
#include <stdint.h>

namespace paceline::kernels {
namespace {

// A bit for each of the first `count` lanes.
inline unsigned FirstLanes(int64_t count) {
  if (count >= 16) return 0xffff;
  return count <= 0 ? 0 : (1u << count) - 1;
}

inline float ReduceAdd8(__m256 x) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  sum = _mm_add_ps(sum, _mm_permute_ps(sum, 0x4e));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_permute_ps(sum, 0xb1)));
}

inline float ReduceMax8(__m256 x) {
  __m128 max = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  max = _mm_max_ps(max, _mm_permute_ps(max, 0x4e));
  return _mm_cvtss_f32(_mm_max_ss(max, _mm_permute_ps(max, 0xb1)));
}

inline double ReduceAdd4(__m256d x) {
  const __m128d sum = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
  return _mm_cvtsd_f64(_mm_add_sd(sum, _mm_unpackhi_pd(sum, sum)));
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SIMD_LANES_COMMON_H_
