// Row functions of normalisation over 16 lanes; V is Avx2 or Avx512. Only for tuned files
// (kernels/README.md).
#ifndef PACELINE_KERNELS_NORM_RMS_NORM_SIMD_H_
#define PACELINE_KERNELS_NORM_RMS_NORM_SIMD_H_

#include <immintrin.h>

#include "kernels/norm/norm_kernels.h"

namespace paceline::kernels {
namespace {

// Squares are summed in 16 lanes of double, then a fixed tree.
template <typename V>
float InverseRms(const float* x, int64_t n, float eps) {
  typename V::F64 sum = V::Zero64();
  for (int64_t i = 0; i < n; i += 16) {
    const typename V::F64 v = V::Widen(V::LoadFirst(x + i, n - i));
    sum = V::MulAdd(v, v, sum);
  }
  const double mean = V::ReduceAdd(sum) / static_cast<double>(n);
  const __m128d root = _mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(mean + static_cast<double>(eps)));
  return static_cast<float>(1.0 / _mm_cvtsd_f64(root));
}

template <typename V>
void Scale(const float* x, const float* weight, float scale, int64_t n, float* out) {
  const typename V::F32 s = V::All(scale);
  for (int64_t i = 0; i < n; i += 16) {
    const typename V::F32 v = V::LoadFirst(x + i, n - i) * s;
    V::StoreFirst(out + i, v * V::LoadFirst(weight + i, n - i), n - i);
  }
}

template <typename V>
void Add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    V::StoreFirst(x + i, V::LoadFirst(x + i, n - i) + V::LoadFirst(y + i, n - i), n - i);
  }
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_NORM_RMS_NORM_SIMD_H_
