// Vectors of 16 lanes in pairs of AVX2 registers (with FMA and F16C), under the names of
// lanes_avx512.h, which says what each does, and with the same results, bit for bit. Only for tuned
// files (kernels/README.md). Stateless.
#ifndef PACELINE_KERNELS_SIMD_LANES_AVX2_H_
#define PACELINE_KERNELS_SIMD_LANES_AVX2_H_

#include <immintrin.h>
#include <stdint.h>

#include "kernels/simd/lanes_common.h"

namespace paceline::kernels {
namespace {

struct Avx2 {
  static constexpr int kRegisters = 8;  // pairs

  struct F32 {
    __m256 low, high;
    friend F32 operator+(F32 a, F32 b) {
      return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
    }
    friend F32 operator-(F32 a, F32 b) {
      return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
    }
    friend F32 operator*(F32 a, F32 b) {
      return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
    }
    friend F32 operator/(F32 a, F32 b) {
      return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
    }
  };
  struct F64 {
    __m256d v[4];
    friend F64 operator+(F64 a, F64 b) {
      for (int i = 0; i < 4; ++i) a.v[i] = _mm256_add_pd(a.v[i], b.v[i]);
      return a;
    }
  };
  struct I32 {
    __m256i low, high;
    friend I32 operator+(I32 a, I32 b) {
      return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
    }
  };
  struct U64 {
    __m256i low, high;
  };
  struct I16 {
    __m256i low, high;
    friend I16 operator+(I16 a, I16 b) {
      return {_mm256_add_epi16(a.low, b.low), _mm256_add_epi16(a.high, b.high)};
    }
  };
  struct Bytes {
    __m256i low, high;
  };

  // ---- Memory
  static F32 All(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F32 LoadFirst(const float* p, int64_t count, float rest = 0) {
    if (count >= 16) return Load(p);
    const Mask mask(count);
    const __m256 other = _mm256_set1_ps(rest);
    return {_mm256_blendv_ps(other, _mm256_maskload_ps(p, mask.low), _mm256_castsi256_ps(mask.low)),
            _mm256_blendv_ps(
                other, _mm256_maskload_ps(p + 8, mask.high), _mm256_castsi256_ps(mask.high))};
  }
  static void Store(float* p, F32 x) {
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
  }
  static void StoreFirst(float* p, F32 x, int64_t count) {
    if (count >= 16) return Store(p, x);
    const Mask mask(count);
    _mm256_maskstore_ps(p, mask.low, x.low);
    _mm256_maskstore_ps(p + 8, mask.high, x.high);
  }
  static F32 LoadTwice(const float* p, int64_t count) {
    const __m256 x = LoadFirst(p, count < 8 ? count : 8).low;
    return {_mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
            _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
  }
  static F32 LoadHalf(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static F32 LoadBfloat16(const uint16_t* p) {
    const auto widen = [](const uint16_t* half) {
      const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(half));
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
    };
    return {widen(p), widen(p + 8)};
  }
  static F32 LowBfloat16(Bytes x) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(x.low, 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(x.high, 16))};
  }
  static F32 HighBfloat16(Bytes x) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000));
    return {_mm256_castsi256_ps(_mm256_and_si256(x.low, mask)),
            _mm256_castsi256_ps(_mm256_and_si256(x.high, mask))};
  }
  static void StoreHalfFirst(uint16_t* p, F32 x, int64_t count) {
    if (count <= 0) return;
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m128i halves[2] = {_mm256_cvtps_ph(x.low, kNearest), _mm256_cvtps_ph(x.high, kNearest)};
    __builtin_memcpy(p, halves, sizeof(*p) * (count < 16 ? count : 16));
  }

  // ---- Floats
  static F32 MulAdd(F32 a, F32 b, F32 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static F32 MulSub(F32 a, F32 b, F32 c) {
    return {_mm256_fmsub_ps(a.low, b.low, c.low), _mm256_fmsub_ps(a.high, b.high, c.high)};
  }
  static F32 NegMulAdd(F32 a, F32 b, F32 c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
  }
  static F32 MulSubAdd(F32 a, F32 b, F32 c) {
    return {_mm256_fmaddsub_ps(a.low, b.low, c.low), _mm256_fmaddsub_ps(a.high, b.high, c.high)};
  }
  static F32 Min(F32 a, F32 b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  static F32 Max(F32 a, F32 b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  static F32 Abs(F32 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
  }
  static F32 Round(F32 x) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.low, kNearest), _mm256_round_ps(x.high, kNearest)};
  }
  static F32 TimesPowerOfTwo(F32 x, F32 n) {
    return {TimesPowerOfTwo(x.low, n.low), TimesPowerOfTwo(x.high, n.high)};
  }
  static F32 SwapPairs(F32 x) {
    return {_mm256_permute_ps(x.low, 0xb1), _mm256_permute_ps(x.high, 0xb1)};
  }
  static F32 AddFirst(F32 a, F32 b, int64_t count) {
    const F32 sum = a + b;
    if (count >= 16) return sum;
    const Mask mask(count);
    return {_mm256_blendv_ps(a.low, sum.low, _mm256_castsi256_ps(mask.low)),
            _mm256_blendv_ps(a.high, sum.high, _mm256_castsi256_ps(mask.high))};
  }
  static __m256 LowHalf(F32 x) { return x.low; }
  static __m256 HighHalf(F32 x) { return x.high; }
  static float First(F32 x) { return _mm256_cvtss_f32(x.low); }
  static float ReduceAdd(F32 x) { return ReduceAdd8(_mm256_add_ps(x.low, x.high)); }
  static float ReduceMax(F32 x) { return ReduceMax8(_mm256_max_ps(x.low, x.high)); }

  // ---- Comparisons
  static unsigned Equal(F32 a, F32 b) { return Compare<_CMP_EQ_OQ>(a, b); }
  static unsigned Greater(F32 a, F32 b) { return Compare<_CMP_GT_OQ>(a, b); }
  static unsigned AtLeast(F32 a, F32 b) { return Compare<_CMP_GE_OQ>(a, b); }
  static unsigned NotLess(F32 a, F32 b) { return Compare<_CMP_NLT_UQ>(a, b); }
  static unsigned IsNan(F32 x) { return Compare<_CMP_UNORD_Q>(x, x); }
  static void StoreSelected(unsigned bits, F32 x, int32_t first, float* values, int32_t* indices) {
    float lanes[16];
    Store(lanes, x);
    for (; bits != 0; bits &= bits - 1) {
      const int lane = __builtin_ctz(bits);
      *values++ = lanes[lane];
      *indices++ = first + lane;
    }
  }

  // ---- Doubles
  static F64 Zero64() {
    const __m256d zero = _mm256_setzero_pd();
    return {{zero, zero, zero, zero}};
  }
  static F64 Widen(F32 x) {
    return {{_mm256_cvtps_pd(_mm256_castps256_ps128(x.low)),
             _mm256_cvtps_pd(_mm256_extractf128_ps(x.low, 1)),
             _mm256_cvtps_pd(_mm256_castps256_ps128(x.high)),
             _mm256_cvtps_pd(_mm256_extractf128_ps(x.high, 1))}};
  }
  static F64 MulAdd(F64 a, F64 b, F64 c) {
    for (int i = 0; i < 4; ++i) c.v[i] = _mm256_fmadd_pd(a.v[i], b.v[i], c.v[i]);
    return c;
  }
  static double ReduceAdd(F64 x) {
    return ReduceAdd4(_mm256_add_pd(_mm256_add_pd(x.v[0], x.v[2]), _mm256_add_pd(x.v[1], x.v[3])));
  }

  // ---- Integers
  static I32 AllInt(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I32 ToInt(F32 x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }
  static F32 ToFloat(I32 x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
  template <int kBits>
  static I32 ShiftLeft(I32 x) {
    return {_mm256_slli_epi32(x.low, kBits), _mm256_slli_epi32(x.high, kBits)};
  }
  static int32_t ReduceAdd(I32 x) {
    const __m256i eight = _mm256_add_epi32(x.low, x.high);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1)));
  }
  static void StoreInt8(int8_t* p, I32 x) {
    const auto narrow = [](__m256i eight) {
      return _mm_packs_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    };
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(narrow(x.low), narrow(x.high)));
  }

  static void StoreInt16(int16_t* p, I32 x) {
    const __m256i mixed = _mm256_packs_epi32(x.low, x.high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(mixed, 0xd8));
  }

  static I32 MaxUnsigned(I32 a, I32 b) {
    return {_mm256_max_epu32(a.low, b.low), _mm256_max_epu32(a.high, b.high)};
  }
  static bool AnyAtLeast(I32 x, uint32_t limit) {
    const __m256i bar = _mm256_set1_epi32(static_cast<int32_t>(limit));
    const __m256i largest = _mm256_max_epu32(x.low, x.high);
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32(_mm256_max_epu32(largest, bar), largest)) != 0;
  }

  // ---- 8 lanes of 64 bits
  static U64 AllU64(uint64_t x) {
    const __m256i all = _mm256_set1_epi64x(static_cast<int64_t>(x));
    return {all, all};
  }
  static U64 CountU64(uint64_t first) {
    const U64 all = AllU64(first);
    return {_mm256_add_epi64(all.low, _mm256_set_epi64x(3, 2, 1, 0)),
            _mm256_add_epi64(all.high, _mm256_set_epi64x(7, 6, 5, 4))};
  }
  static U64 MulLow(U64 a, U64 b) {
    return {_mm256_mul_epu32(a.low, b.low), _mm256_mul_epu32(a.high, b.high)};
  }
  static U64 HighHalves(U64 x) {
    return {_mm256_srli_epi64(x.low, 32), _mm256_srli_epi64(x.high, 32)};
  }
  static U64 Xor(U64 a, U64 b, U64 c) {
    return {_mm256_xor_si256(_mm256_xor_si256(a.low, b.low), c.low),
            _mm256_xor_si256(_mm256_xor_si256(a.high, b.high), c.high)};
  }
  static I32 LowHalves(U64 x, U64 y) {
    return {_mm256_blend_epi32(x.low, _mm256_slli_epi64(y.low, 32), 0xaa),
            _mm256_blend_epi32(x.high, _mm256_slli_epi64(y.high, 32), 0xaa)};
  }
  static void StoreLowHalves(uint32_t* p, U64 x) {
    const __m256 pairs =
        _mm256_shuffle_ps(_mm256_castsi256_ps(x.low), _mm256_castsi256_ps(x.high), 0x88);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm256_permute4x64_epi64(_mm256_castps_si256(pairs), 0xd8));
  }

  // ---- Bytes
  static Bytes LoadBytes(const uint8_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
  }
  static void StoreBytes(uint8_t* p, Bytes x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.high);
  }
  static Bytes AllBytes(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    return {_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
  }
  static Bytes And(Bytes x, uint8_t mask) {
    const __m256i all = _mm256_set1_epi8(static_cast<char>(mask));
    return {_mm256_and_si256(x.low, all), _mm256_and_si256(x.high, all)};
  }
  template <int kBits>
  static Bytes ShiftLeft16(Bytes x) {
    return {_mm256_slli_epi16(x.low, kBits), _mm256_slli_epi16(x.high, kBits)};
  }
  template <int kBits>
  static Bytes ShiftRight16(Bytes x) {
    return {_mm256_srli_epi16(x.low, kBits), _mm256_srli_epi16(x.high, kBits)};
  }
  static Bytes ShiftRight16(Bytes x, int bits) {
    const __m128i count = _mm_cvtsi32_si128(bits);
    return {_mm256_srl_epi16(x.low, count), _mm256_srl_epi16(x.high, count)};
  }
  static I32 Byte(Bytes x, int t) {
    const __m256i mask = _mm256_set1_epi32(255);
    return {_mm256_and_si256(_mm256_srli_epi32(x.low, 8 * t), mask),
            _mm256_and_si256(_mm256_srli_epi32(x.high, 8 * t), mask)};
  }
  static I16 MulPairs(Bytes u, Bytes s) {
    return {_mm256_maddubs_epi16(u.low, s.low), _mm256_maddubs_epi16(u.high, s.high)};
  }
  static I16 LoadInt8Pairs(const uint8_t* p) {
    const auto* const halves = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(halves)),
            _mm256_cvtepi8_epi16(_mm_loadu_si128(halves + 1))};
  }
  static I16 AllPairs(const int16_t* p) {
    int32_t two;
    __builtin_memcpy(&two, p, sizeof(two));
    return {_mm256_set1_epi32(two), _mm256_set1_epi32(two)};
  }
  static I32 AddProducts(I16 a, I16 b, I32 c) {
    return {_mm256_add_epi32(c.low, _mm256_madd_epi16(a.low, b.low)),
            _mm256_add_epi32(c.high, _mm256_madd_epi16(a.high, b.high))};
  }
  static I32 SumPairs(I16 x, int16_t factor = 1) {
    const __m256i all = _mm256_set1_epi16(factor);
    return {_mm256_madd_epi16(x.low, all), _mm256_madd_epi16(x.high, all)};
  }

 private:
  struct Mask {
    explicit Mask(int64_t count) {
      const int32_t lanes = count < 0 ? 0 : static_cast<int32_t>(count < 16 ? count : 16);
      const __m256i all = _mm256_set1_epi32(lanes);
      low = _mm256_cmpgt_epi32(all, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
      high = _mm256_cmpgt_epi32(all, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15));
    }
    __m256i low, high;
  };

  template <int kPredicate>
  static unsigned Compare(F32 a, F32 b) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a.low, b.low, kPredicate))) |
           static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a.high, b.high, kPredicate)))
               << 8;
  }

  // In two steps, of which the first is exact: one factor may be no float. Beyond the bounds the
  // result is 0 or infinity in any case.
  static __m256 TimesPowerOfTwo(__m256 x, __m256 n) {
    const __m256i exponent = _mm256_max_epi32(
        _mm256_min_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(254)), _mm256_set1_epi32(-252));
    const __m256i half = _mm256_srai_epi32(exponent, 1);
    const auto power = [](__m256i e) {
      return _mm256_castsi256_ps(
          _mm256_slli_epi32(_mm256_add_epi32(e, _mm256_set1_epi32(127)), 23));
    };
    return _mm256_mul_ps(_mm256_mul_ps(x, power(half)), power(_mm256_sub_epi32(exponent, half)));
  }
};

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SIMD_LANES_AVX2_H_
