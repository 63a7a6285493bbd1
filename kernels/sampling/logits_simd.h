// Passes over logits, 16 lanes at a time; V is Avx2 or Avx512. Only for tuned files
// (kernels/README.md).
#ifndef PACELINE_KERNELS_SAMPLING_LOGITS_SIMD_H_
#define PACELINE_KERNELS_SAMPLING_LOGITS_SIMD_H_

#include "kernels/sampling/logits_kernels.h"
#include "kernels/simd/lanes_common.h"
#include "kernels/simd/math.h"

namespace paceline::kernels {
namespace {

template <typename V>
float Max(const float* logits, int64_t n, bool* has_nan) {
  using F32 = typename V::F32;
  constexpr float kLowest = -__builtin_inff();
  F32 max[4] = {V::All(kLowest), V::All(kLowest), V::All(kLowest), V::All(kLowest)};
  unsigned nan = 0;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int j = 0; j < 4; ++j) {
      const F32 v = V::Load(logits + i + 16 * j);
      nan |= V::IsNan(v);
      max[j] = V::Max(v, max[j]);  // the second operand wins over NaN
    }
  }
  for (; i < n; i += 16) {
    const F32 v = V::LoadFirst(logits + i, n - i, kLowest);
    nan |= V::IsNan(v);
    max[0] = V::Max(v, max[0]);
  }
  *has_nan = nan != 0;
  return V::ReduceMax(V::Max(V::Max(max[0], max[1]), V::Max(max[2], max[3])));
}

template <typename V>
int64_t Find(const float* logits, int64_t n, float value) {
  const typename V::F32 target = V::All(value);
  for (int64_t i = 0; i < n; i += 16) {
    const unsigned equal = V::Equal(V::LoadFirst(logits + i, n - i), target) & FirstLanes(n - i);
    if (equal != 0) return i + __builtin_ctz(equal);
  }
  return n;
}

// 16 float lanes over 128 logits at a time, then added to double lanes; a fixed tree at the end.
template <typename V>
double SumExp(const float* logits, int64_t n, float max, float scale) {
  using F32 = typename V::F32;
  const F32 m = V::All(max);
  const F32 s = V::All(scale);
  typename V::F64 total = V::Zero64();
  for (int64_t i = 0; i < n; i += 128) {
    F32 sum = V::All(0);
    for (int64_t j = i; j < n && j < i + 128; j += 16) {
      const F32 x = V::LoadFirst(logits + j, n - j) - m;
      sum = V::AddFirst(sum, Exp<V>(x * s), n - j);
    }
    total = total + V::Widen(sum);
  }
  return V::ReduceAdd(total);
}

template <typename V>
int64_t Collect(const float* logits,
                int64_t begin,
                int64_t n,
                float threshold,
                bool strict,
                int64_t capacity,
                int32_t* ids,
                float* values,
                int64_t* next) {
  using F32 = typename V::F32;
  const F32 bar = V::All(threshold);
  int64_t count = 0;
  int64_t i = begin;
  for (; i < n && count + 16 <= capacity; i += 16) {
    const F32 v = V::LoadFirst(logits + i, n - i);
    const unsigned past = (strict ? V::Greater(v, bar) : V::AtLeast(v, bar)) & FirstLanes(n - i);
    if (past == 0) continue;
    V::StoreSelected(past, v, static_cast<int32_t>(i), values + count, ids + count);
    count += __builtin_popcount(past);
  }
  *next = i < n ? i : n;
  return count;
}

template <typename V>
int64_t CountGreater(const float* logits, int64_t n, float value) {
  const typename V::F32 bar = V::All(value);
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 16) {
    const unsigned past = V::Greater(V::LoadFirst(logits + i, n - i), bar) & FirstLanes(n - i);
    count += __builtin_popcount(past);
  }
  return count;
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SAMPLING_LOGITS_SIMD_H_
