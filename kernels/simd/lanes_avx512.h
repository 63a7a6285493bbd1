// Vectors of 16 lanes in AVX-512 registers, under the names that the templates in *_simd.h use.
// lanes_avx2.h has the same names and gives the same bits. Only for tuned files
// (kernels/README.md). Stateless.
#ifndef PACELINE_KERNELS_SIMD_LANES_AVX512_H_
#define PACELINE_KERNELS_SIMD_LANES_AVX512_H_

#include <immintrin.h>
#include <stdint.h>

#include "kernels/simd/lanes_common.h"

namespace paceline::kernels {
namespace {

struct Avx512 {
  static constexpr int kRegisters = 32;  // of 16 lanes each

  struct F32 {
    __m512 v;
    friend F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
    friend F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
    friend F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
    friend F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
  };
  struct F64 {
    __m512d low, high;
    friend F64 operator+(F64 a, F64 b) {
      return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
    }
  };
  struct I32 {
    __m512i v;
    friend I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
  };
  struct U64 {  // 8
    __m512i v;
  };
  // Two 16-bit integers a lane.
  struct I16 {
    __m512i v;
    friend I16 operator+(I16 a, I16 b) { return {_mm512_add_epi16(a.v, b.v)}; }
  };
  // Four bytes a lane.
  struct Bytes {
    __m512i v;
  };

  // ---- Memory. *First: the first `count` lanes; all when count >= 16, none when count <= 0.
  static F32 All(float x) { return {_mm512_set1_ps(x)}; }
  static F32 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32 LoadFirst(const float* p, int64_t count, float rest = 0) {
    return {_mm512_mask_loadu_ps(_mm512_set1_ps(rest), Mask(count), p)};
  }
  static void Store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
  static void StoreFirst(float* p, F32 x, int64_t count) {
    _mm512_mask_storeu_ps(p, Mask(count), x.v);
  }
  // Lanes 2i and 2i + 1 are p[i], for i < count, the others 0.
  static F32 LoadTwice(const float* p, int64_t count) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __mmask16 lanes = Mask(count) & 0xff;
    return {_mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(lanes, p))};
  }
  static F32 LoadHalf(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static F32 LoadBfloat16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  // The first and the second bf16 of every lane.
  static F32 LowBfloat16(Bytes x) { return {_mm512_castsi512_ps(_mm512_slli_epi32(x.v, 16))}; }
  static F32 HighBfloat16(Bytes x) {
    const __m512i mask = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000));
    return {_mm512_castsi512_ps(_mm512_and_si512(x.v, mask))};
  }
  static void StoreHalfFirst(uint16_t* p, F32 x, int64_t count) {
    const __m256i half = _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(p, Mask(count), half);
  }

  // ---- Floats. Min and Max give their second operand for NaN.
  static F32 MulAdd(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static F32 MulSub(F32 a, F32 b, F32 c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }
  static F32 NegMulAdd(F32 a, F32 b, F32 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
  // a * b - c in even lanes, a * b + c in odd ones.
  static F32 MulSubAdd(F32 a, F32 b, F32 c) { return {_mm512_fmaddsub_ps(a.v, b.v, c.v)}; }
  static F32 Min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
  static F32 Max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
  static F32 Abs(F32 x) { return {_mm512_abs_ps(x.v)}; }
  // To the nearest integer, ties to even.
  static F32 Round(F32 x) {
    return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  // x * 2^n, rounded once. REQUIRES: n is an integer; 0.5 < |x| < 2, or either is NaN.
  static F32 TimesPowerOfTwo(F32 x, F32 n) { return {_mm512_scalef_ps(x.v, n.v)}; }
  // Lanes 2i and 2i + 1 swapped.
  static F32 SwapPairs(F32 x) { return {_mm512_permute_ps(x.v, 0xb1)}; }
  static F32 AddFirst(F32 a, F32 b, int64_t count) {
    return {_mm512_mask_add_ps(a.v, Mask(count), a.v, b.v)};
  }
  static __m256 LowHalf(F32 x) { return _mm512_castps512_ps256(x.v); }
  static __m256 HighHalf(F32 x) { return _mm512_extractf32x8_ps(x.v, 1); }
  static float First(F32 x) { return _mm512_cvtss_f32(x.v); }
  static float ReduceAdd(F32 x) { return ReduceAdd8(_mm256_add_ps(LowHalf(x), HighHalf(x))); }
  static float ReduceMax(F32 x) { return ReduceMax8(_mm256_max_ps(LowHalf(x), HighHalf(x))); }

  // ---- Comparisons: bit i tells of lane i.
  static unsigned Equal(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
  static unsigned Greater(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
  static unsigned AtLeast(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ); }
  // a >= b, or either is NaN.
  static unsigned NotLess(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_NLT_UQ); }
  static unsigned IsNan(F32 x) { return _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q); }
  // Of the lanes with a bit: their values, and first + their index. May write 16 of each.
  // Compressed in registers, then stored: compress to memory is microcoded on Zen 4.
  static void StoreSelected(unsigned bits, F32 x, int32_t first, float* values, int32_t* indices) {
    const __m512i iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const auto lanes = static_cast<__mmask16>(bits);
    const __m512i index = _mm512_add_epi32(iota, _mm512_set1_epi32(first));
    _mm512_storeu_si512(indices, _mm512_maskz_compress_epi32(lanes, index));
    _mm512_storeu_ps(values, _mm512_maskz_compress_ps(lanes, x.v));
  }

  // ---- Doubles
  static F64 Zero64() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
  static F64 Widen(F32 x) { return {_mm512_cvtps_pd(LowHalf(x)), _mm512_cvtps_pd(HighHalf(x))}; }
  static F64 MulAdd(F64 a, F64 b, F64 c) {
    return {_mm512_fmadd_pd(a.low, b.low, c.low), _mm512_fmadd_pd(a.high, b.high, c.high)};
  }
  static double ReduceAdd(F64 x) {
    const __m512d sum = _mm512_add_pd(x.low, x.high);
    return ReduceAdd4(_mm256_add_pd(_mm512_castpd512_pd256(sum), _mm512_extractf64x4_pd(sum, 1)));
  }

  // ---- Integers
  static I32 AllInt(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static I32 ToInt(F32 x) { return {_mm512_cvtps_epi32(x.v)}; }
  static F32 ToFloat(I32 x) { return {_mm512_cvtepi32_ps(x.v)}; }
  template <int kBits>
  static I32 ShiftLeft(I32 x) {
    return {_mm512_slli_epi32(x.v, kBits)};
  }
  static int32_t ReduceAdd(I32 x) { return _mm512_reduce_add_epi32(x.v); }
  // Lanes that do not fit 8 bits become anything.
  static void StoreInt8(int8_t* p, I32 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
  }

  // As StoreInt8, 16 bits.
  static void StoreInt16(int16_t* p, I32 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x.v));
  }

  static I32 MaxUnsigned(I32 a, I32 b) { return {_mm512_max_epu32(a.v, b.v)}; }
  // Whether any lane is at least `limit`, all taken as unsigned.
  static bool AnyAtLeast(I32 x, uint32_t limit) {
    return _mm512_cmpge_epu32_mask(x.v, _mm512_set1_epi32(static_cast<int32_t>(limit))) != 0;
  }

  // ---- 8 lanes of 64 bits
  static U64 AllU64(uint64_t x) { return {_mm512_set1_epi64(static_cast<int64_t>(x))}; }
  // first, first + 1, ... first + 7
  static U64 CountU64(uint64_t first) {
    return {_mm512_add_epi64(AllU64(first).v, _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0))};
  }
  // Products of the low halves.
  static U64 MulLow(U64 a, U64 b) { return {_mm512_mul_epu32(a.v, b.v)}; }
  static U64 HighHalves(U64 x) { return {_mm512_srli_epi64(x.v, 32)}; }
  static U64 Xor(U64 a, U64 b, U64 c) {
    constexpr int kXor3 = 0x96;
    return {_mm512_ternarylogic_epi64(a.v, b.v, c.v, kXor3)};
  }
  // Low halves of x in even lanes, of y in odd ones.
  static I32 LowHalves(U64 x, U64 y) {
    return {_mm512_mask_blend_epi32(0xaaaa, x.v, _mm512_slli_epi64(y.v, 32))};
  }
  static void StoreLowHalves(uint32_t* p, U64 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi64_epi32(x.v));
  }

  // ---- Bytes
  static Bytes LoadBytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  static void StoreBytes(uint8_t* p, Bytes x) { _mm512_storeu_si512(p, x.v); }
  // The same four bytes in every lane.
  static Bytes AllBytes(const int8_t* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof(four));
    return {_mm512_set1_epi32(four)};
  }
  static Bytes And(Bytes x, uint8_t mask) {
    return {_mm512_and_si512(x.v, _mm512_set1_epi8(static_cast<char>(mask)))};
  }
  // Of 16 bits each.
  template <int kBits>
  static Bytes ShiftLeft16(Bytes x) {
    return {_mm512_slli_epi16(x.v, kBits)};
  }
  template <int kBits>
  static Bytes ShiftRight16(Bytes x) {
    return {_mm512_srli_epi16(x.v, kBits)};
  }
  static Bytes ShiftRight16(Bytes x, int bits) {
    return {_mm512_srl_epi16(x.v, _mm_cvtsi32_si128(bits))};
  }
  // Byte `t` of every lane.
  static I32 Byte(Bytes x, int t) {
    return {_mm512_and_si512(_mm512_srli_epi32(x.v, 8 * t), _mm512_set1_epi32(255))};
  }
  // Unsigned times signed, pairs of products added; exact where the sums fit 16 bits.
  static I16 MulPairs(Bytes u, Bytes s) { return {_mm512_maddubs_epi16(u.v, s.v)}; }
  // 32 signed bytes, two a lane.
  static I16 LoadInt8Pairs(const uint8_t* p) {
    return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  // The same two in every lane.
  static I16 AllPairs(const int16_t* p) {
    int32_t two;
    __builtin_memcpy(&two, p, sizeof(two));
    return {_mm512_set1_epi32(two)};
  }
  // c plus both products of a lane.
  static I32 AddProducts(I16 a, I16 b, I32 c) {
    return {_mm512_add_epi32(c.v, _mm512_madd_epi16(a.v, b.v))};
  }
  // The two of a lane, added and times `factor`.
  static I32 SumPairs(I16 x, int16_t factor = 1) {
    return {_mm512_madd_epi16(x.v, _mm512_set1_epi16(factor))};
  }

 private:
  static __mmask16 Mask(int64_t count) { return static_cast<__mmask16>(FirstLanes(count)); }
};

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SIMD_LANES_AVX512_H_
