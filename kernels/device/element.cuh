// The types of activations and of the KV cache's elements, for kernels that are templates over
// them.
#ifndef PACELINE_KERNELS_DEVICE_ELEMENT_CUH_
#define PACELINE_KERNELS_DEVICE_ELEMENT_CUH_

#include "device_backend.cuh"

namespace paceline::kernels::device {

struct Bf16 {
  using Bits = uint16_t;

  // An E4M3's exponent and mantissa, so many bits below where they are in the upper byte, are the
  // number divided by this.
  static constexpr int kE4M3Shift = 4;
  static constexpr uint32_t kE4M3Scale = 0x7b807b80;  // 2^120, twice

  // Numbers, twice in 32 bits. kNibbleBase | n is kNibbleBase + n for n in [0, 16).
  static constexpr uint32_t kOnes = 0x3f803f80;
  static constexpr uint32_t kSixteens = 0x41804180;
  static constexpr uint32_t kNibbleBase = 0x43004300;  // 128
  static constexpr uint32_t kMinusBase = 0xc300c300;   // -128
  static constexpr uint32_t kMinusBase8 = 0xc308c308;  // -128 - 8

  static __device__ __forceinline__ float ToFloat(uint16_t bits) { return Bf16ToFloat(bits); }
  static __device__ __forceinline__ uint16_t FromFloat(float x) { return FloatToBf16(x); }
  static __device__ __forceinline__ uint32_t MulAddPairs(uint32_t a, uint32_t b, uint32_t c) {
    return MulAddPairsBf16(a, b, c);
  }
  static __device__ __forceinline__ void Mma(float (&c)[4],
                                             const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    MmaBf16(c, a, b);
  }
};

struct F16 {
  using Bits = uint16_t;

  static constexpr int kE4M3Shift = 1;
  static constexpr uint32_t kE4M3Scale = 0x5c005c00;  // 2^8

  static constexpr uint32_t kOnes = 0x3c003c00;
  static constexpr uint32_t kSixteens = 0x4c004c00;
  static constexpr uint32_t kNibbleBase = 0x64006400;  // 1024
  static constexpr uint32_t kMinusBase = 0xe400e400;
  static constexpr uint32_t kMinusBase8 = 0xe408e408;

  static __device__ __forceinline__ float ToFloat(uint16_t bits) { return F16ToFloat(bits); }
  static __device__ __forceinline__ uint16_t FromFloat(float x) { return FloatToF16(x); }
  static __device__ __forceinline__ uint32_t MulAddPairs(uint32_t a, uint32_t b, uint32_t c) {
    return MulAddPairsF16(a, b, c);
  }
  static __device__ __forceinline__ void Mma(float (&c)[4],
                                             const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    MmaF16(c, a, b);
  }
};

template <typename T>
__device__ __forceinline__ uint32_t Pack(float low, float high) {
  return T::FromFloat(low) | static_cast<uint32_t>(T::FromFloat(high)) << 16;
}

// ---- Elements of a cache that have a scale for each token's head.

struct Int8 {
  using Bits = uint8_t;
  static constexpr float kLargest = 127;

  // To nearest, ties to even. REQUIRES: at most kLargest.
  static __device__ __forceinline__ Bits FromFloat(float x) {
    return static_cast<Bits>(RoundToInt8(x));
  }
  // Four elements as four of T, exactly.
  template <typename T>
  static __device__ __forceinline__ void Unpack(uint32_t four, uint32_t* to) {
    const auto number = [&](int j) {
      return static_cast<float>(static_cast<int8_t>(four >> 8 * j));
    };
    to[0] = Pack<T>(number(0), number(1));
    to[1] = Pack<T>(number(2), number(3));
  }
};

// 8-bit floating point: 4 bits of exponent, 3 of mantissa, no infinity. In whole numbers and one
// multiplication, so that devices without instructions for it have the same bits.
struct E4M3 {
  using Bits = uint8_t;
  static constexpr float kLargest = 448;

  // To nearest, ties to even, at most kLargest; what is not a number becomes 0x7f.
  static __device__ __forceinline__ Bits FromFloat(float x) {
    constexpr uint32_t kSmallestNormal = 0x3c800000;  // 2^-6
    const uint32_t magnitude = FloatBits(x) & 0x7fffffff;
    const uint32_t sign = FloatBits(x) >> 24 & 0x80;
    if (magnitude > 0x7f800000) return 0x7f;
    uint32_t code;
    if (magnitude < kSmallestNormal) {
      // Steps of 2^-9, in the last bits of a number with steps of 1.
      code = FloatBits(BitsToFloat(magnitude) * 512.0f + 8388608.0f) & 0xf;
    } else {
      const uint32_t rounded = magnitude + 0x7ffff + (magnitude >> 20 & 1);
      code = (rounded >> 20) - (120 << 3);
    }
    return static_cast<Bits>(sign | (code > 0x7e ? 0x7e : code));
  }
  // Exactly; 0x7f, which nobody stores, becomes 480, so that what is never looked at is a number.
  template <typename T>
  static __device__ __forceinline__ void Unpack(uint32_t four, uint32_t* to) {
    constexpr uint32_t kMinusZeros = 0x80008000;
    for (int i = 0; i < 2; ++i) {
      const uint32_t two = (four << 8 & 0xff00) | (four << 16 & 0xff000000);
      const uint32_t magnitudes = (two & 0x7f007f00) >> T::kE4M3Shift;
      to[i] = T::MulAddPairs((two & kMinusZeros) | magnitudes, T::kE4M3Scale, kMinusZeros);
      four >>= 16;
    }
  }
};

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_ELEMENT_CUH_
