// Philox words of 64 tokens in vectors; V is kernels::Avx2 or Avx512. Only for tuned files
// (kernels/README.md).
#ifndef PACELINE_WORKER_SAMPLE_PHILOX_BLOCK_SIMD_H_
#define PACELINE_WORKER_SAMPLE_PHILOX_BLOCK_SIMD_H_

#include "worker/sample/philox_block.h"

namespace paceline::worker {
namespace {

// Eight generators in 64-bit lanes: only the low halves mean something. The 32 x 32 multiplication
// ignores high halves, so a product can stay where it is and serve as its own low word.
template <typename V>
struct Octet {
  typename V::U64 c0, c1, c2, c3;

  void Round(typename V::U64 key0, typename V::U64 key1) {
    const typename V::U64 product0 = V::MulLow(c0, V::AllU64(kPhiloxMultiplier0));
    const typename V::U64 product1 = V::MulLow(c2, V::AllU64(kPhiloxMultiplier1));
    c0 = V::Xor(V::HighHalves(product1), c1, key0);
    c1 = product1;
    c2 = V::Xor(V::HighHalves(product0), c3, key1);
    c3 = product0;
  }
};

template <typename V>
bool WordsAtLeast(const uint32_t* first,
                  const uint32_t* key,
                  uint32_t cutoff,
                  uint32_t words[4][kPhiloxBlockCounters]) {
  using U64 = typename V::U64;
  const U64 c1 = V::AllU64(first[1]);
  const U64 c2 = V::AllU64(first[2]);
  const U64 c3 = V::AllU64(first[3]);
  Octet<V> a = {V::CountU64(first[0]), c1, c2, c3};
  Octet<V> b = {V::CountU64(uint64_t{first[0]} + 8), c1, c2, c3};
  uint32_t key0 = key[0];
  uint32_t key1 = key[1];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const U64 k0 = V::AllU64(key0);
    const U64 k1 = V::AllU64(key1);
    a.Round(k0, k1);
    b.Round(k0, k1);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  const auto largest =
      V::MaxUnsigned(V::MaxUnsigned(V::LowHalves(a.c0, b.c0), V::LowHalves(a.c1, b.c1)),
                     V::MaxUnsigned(V::LowHalves(a.c2, b.c2), V::LowHalves(a.c3, b.c3)));
  if (!V::AnyAtLeast(largest, cutoff)) return false;
  const U64 octets[4][2] = {{a.c0, b.c0}, {a.c1, b.c1}, {a.c2, b.c2}, {a.c3, b.c3}};
  for (int lane = 0; lane < 4; ++lane) {
    for (int half = 0; half < 2; ++half) {
      V::StoreLowHalves(&words[lane][8 * half], octets[lane][half]);
    }
  }
  return true;
}

template <typename V>
float Max64(const float* values) {
  return V::ReduceMax(V::Max(V::Max(V::Load(values), V::Load(values + 16)),
                             V::Max(V::Load(values + 32), V::Load(values + 48))));
}

}  // namespace
}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SAMPLE_PHILOX_BLOCK_SIMD_H_
