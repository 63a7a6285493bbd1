// Rotary embedding over 16 lanes; V is Avx2 or Avx512. Only for tuned files (kernels/README.md).
#ifndef PACELINE_KERNELS_ROPE_ROPE_SIMD_H_
#define PACELINE_KERNELS_ROPE_ROPE_SIMD_H_

#include "kernels/rope/rope_kernels.h"

namespace paceline::kernels {
namespace {

template <typename V>
void TurnInterleaved(float* head, const float* cosine, const float* sine, int32_t pairs) {
  using F32 = typename V::F32;
  for (int32_t i = 0; i < pairs; i += 8) {
    const F32 c = V::LoadTwice(cosine + i, pairs - i);
    const F32 s = V::LoadTwice(sine + i, pairs - i);
    const F32 ab = V::LoadFirst(head + 2 * i, 2 * (pairs - i));
    V::StoreFirst(head + 2 * i, V::MulSubAdd(ab, c, V::SwapPairs(ab) * s), 2 * (pairs - i));
  }
}

template <typename V>
void TurnHalves(float* head, const float* cosine, const float* sine, int32_t pairs) {
  using F32 = typename V::F32;
  for (int32_t i = 0; i < pairs; i += 16) {
    const int32_t count = pairs - i;
    const F32 c = V::LoadFirst(cosine + i, count);
    const F32 s = V::LoadFirst(sine + i, count);
    const F32 a = V::LoadFirst(head + i, count);
    const F32 b = V::LoadFirst(head + pairs + i, count);
    V::StoreFirst(head + i, V::MulSub(a, c, b * s), count);
    V::StoreFirst(head + pairs + i, V::MulAdd(b, c, a * s), count);
  }
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ROPE_ROPE_SIMD_H_
