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

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_KV_CACHE_WRITE_KV_SIMD_H_
