// Conversions of the KV cache over 16 lanes; V is Avx2 or Avx512. Only for tuned files
// (kernels/README.md).
#ifndef PACELINE_KERNELS_KV_CACHE_WRITE_KV_SIMD_H_
#define PACELINE_KERNELS_KV_CACHE_WRITE_KV_SIMD_H_

#include "kernels/kv_cache/kv_kernels.h"

namespace paceline::kernels {
namespace {

template <typename V>
void ToHalf(const float* x, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; i += 16) {
    V::StoreHalfFirst(out + i, V::LoadFirst(x + i, n - i), n - i);
  }
}

template <typename V>
float ToInt8(const float* x, int64_t n, int8_t* out) {
  typename V::F32 max = V::All(0);
  unsigned bad = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const typename V::F32 a = V::Abs(V::Load(x + i));
    bad |= V::NotLess(a, V::All(__builtin_inff()));
    max = V::Max(a, max);
  }
  const float largest = V::ReduceMax(max);
  if (bad != 0 || largest < 1e-30f) {  // too small to invert its scale
    __builtin_memset(out, 0, n);
    return bad != 0 ? __builtin_nanf("") : 0.0f;
  }
  const float scale = largest / 127.0f;
  const typename V::F32 inverse = V::All(1.0f / scale);
  for (int64_t i = 0; i < n; i += 16) V::StoreInt8(out + i, V::ToInt(V::Load(x + i) * inverse));
  return scale;
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_KV_CACHE_WRITE_KV_SIMD_H_
