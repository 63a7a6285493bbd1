// Software conversion between float32 and the two 16-bit float formats; no F16C needed, the same
// bits on every machine. Stateless; any thread.
#ifndef PACELINE_MODEL_GGUF_HALF_H_
#define PACELINE_MODEL_GGUF_HALF_H_

#include <bit>
#include <cstdint>
#include <cstring>

namespace paceline::model {

// Exact: every half (subnormals, infinities, NaN payloads) has a float32 of the same value.
inline float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  // Subnormal or zero: mantissa · 2^-24, exact in float32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

// Rounds to nearest, ties to even; overflow gives infinity, NaN stays a (quiet) NaN.
inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x47800000u) return sign | 0x7c00u;  // 2^16 and up
  uint32_t rounded;
  uint32_t remainder;
  uint32_t halfway;
  if (magnitude >= 0x38800000u) {  // normal half: 2^-14 and up
    const uint32_t rebased = magnitude - (112u << 23);
    rounded = rebased >> 13;
    remainder = rebased & 0x1fffu;
    halfway = 0x1000u;
  } else {  // subnormal half: units of 2^-24
    const uint32_t exponent = magnitude >> 23;
    if (exponent < 102) return sign;  // below 2^-25: rounds to zero
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t shift = 126 - exponent;  // 14..24
    rounded = mantissa >> shift;
    remainder = mantissa & ((1u << shift) - 1);
    halfway = 1u << (shift - 1);
  }
  if (remainder > halfway || (remainder == halfway && (rounded & 1u) != 0)) ++rounded;
  return static_cast<uint16_t>(sign | rounded);
}

inline float BFloat16ToFloat(uint16_t bfloat16) {
  return std::bit_cast<float>(static_cast<uint32_t>(bfloat16) << 16);
}

// Rounds to nearest, ties to even; NaN stays a (quiet) NaN.
inline uint16_t FloatToBFloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Reads a little-endian half at any alignment.
inline float LoadHalf(const uint8_t* src) {
  uint16_t half;
  std::memcpy(&half, src, sizeof(half));
  return HalfToFloat(half);
}

}  // namespace paceline::model

#endif  // PACELINE_MODEL_GGUF_HALF_H_
