// Compiled for AVX-512 F and VL; called only where the processor has them.
#include <immintrin.h>

#include "worker/sample/philox_block.h"

namespace paceline::worker {
namespace {

// Eight generators in 64-bit lanes: only the low halves mean something. The 32 x 32 multiplication
// ignores high halves, so a product can stay where it is and serve as its own low word.
struct Octet {
  __m512i c0, c1, c2, c3;
};

inline void Round(Octet& o, __m512i m0, __m512i m1, __m512i key0, __m512i key1) {
  const __m512i product0 = _mm512_mul_epu32(o.c0, m0);
  const __m512i product1 = _mm512_mul_epu32(o.c2, m1);
  constexpr int kXor3 = 0x96;
  o.c0 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(product1, 32), o.c1, key0, kXor3);
  o.c1 = product1;
  o.c2 = _mm512_ternarylogic_epi64(_mm512_srli_epi64(product0, 32), o.c3, key1, kXor3);
  o.c3 = product0;
}

bool WordsAtLeast(const uint32_t* first,
                  const uint32_t* key,
                  uint32_t cutoff,
                  uint32_t words[4][kPhiloxBlockCounters]) {
  const __m512i m0 = _mm512_set1_epi64(kPhiloxMultiplier0);
  const __m512i m1 = _mm512_set1_epi64(kPhiloxMultiplier1);
  const __m512i base = _mm512_set1_epi64(first[0]);
  const __m512i low = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i high = _mm512_set_epi64(15, 14, 13, 12, 11, 10, 9, 8);
  const __m512i c1 = _mm512_set1_epi64(first[1]);
  const __m512i c2 = _mm512_set1_epi64(first[2]);
  const __m512i c3 = _mm512_set1_epi64(first[3]);
  Octet a = {_mm512_add_epi64(base, low), c1, c2, c3};
  Octet b = {_mm512_add_epi64(base, high), c1, c2, c3};
  uint32_t key0 = key[0];
  uint32_t key1 = key[1];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const __m512i k0 = _mm512_set1_epi64(key0);
    const __m512i k1 = _mm512_set1_epi64(key1);
    Round(a, m0, m1, k0, k1);
    Round(b, m0, m1, k0, k1);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  // Pairs of word rows as 32-bit lanes: low halves of x in even lanes, of y in odd ones.
  const auto pack = [](__m512i x, __m512i y) {
    return _mm512_mask_blend_epi32(0xAAAA, x, _mm512_slli_epi64(y, 32));
  };
  const __m512i limit = _mm512_set1_epi32(static_cast<int32_t>(cutoff));
  const __m512i ab0 = pack(a.c0, b.c0);
  const __m512i ab1 = pack(a.c1, b.c1);
  const __m512i ab2 = pack(a.c2, b.c2);
  const __m512i ab3 = pack(a.c3, b.c3);
  const __m512i largest = _mm512_max_epu32(_mm512_max_epu32(ab0, ab1), _mm512_max_epu32(ab2, ab3));
  if (_mm512_cmpge_epu32_mask(largest, limit) == 0) return false;
  const __m512i* halves[4][2] = {{&a.c0, &b.c0}, {&a.c1, &b.c1}, {&a.c2, &b.c2}, {&a.c3, &b.c3}};
  for (int lane = 0; lane < 4; ++lane) {
    for (int half = 0; half < 2; ++half) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(&words[lane][8 * half]),
                          _mm512_cvtepi64_epi32(*halves[lane][half]));
    }
  }
  return true;
}

float Max64(const float* values) {
  return _mm512_reduce_max_ps(
      _mm512_max_ps(_mm512_max_ps(_mm512_loadu_ps(values), _mm512_loadu_ps(values + 16)),
                    _mm512_max_ps(_mm512_loadu_ps(values + 32), _mm512_loadu_ps(values + 48))));
}

}  // namespace

const PhiloxBlockTable kPhiloxBlockAvx512 = {&WordsAtLeast, &Max64};

}  // namespace paceline::worker
