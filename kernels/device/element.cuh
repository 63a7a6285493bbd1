// The 16-bit types of activations and the KV cache, for kernels that are templates over them.
#ifndef PACELINE_KERNELS_DEVICE_ELEMENT_CUH_
#define PACELINE_KERNELS_DEVICE_ELEMENT_CUH_

#include "device_backend.cuh"

namespace paceline::kernels::device {

struct Bf16 {
  static __device__ __forceinline__ float ToFloat(uint16_t bits) { return Bf16ToFloat(bits); }
  static __device__ __forceinline__ uint16_t FromFloat(float x) { return FloatToBf16(x); }
  static __device__ __forceinline__ void Mma(float (&c)[4],
                                             const uint32_t (&a)[4],
                                             const uint32_t (&b)[2]) {
    MmaBf16(c, a, b);
  }
};

struct F16 {
  static __device__ __forceinline__ float ToFloat(uint16_t bits) { return F16ToFloat(bits); }
  static __device__ __forceinline__ uint16_t FromFloat(float x) { return FloatToF16(x); }
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

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_ELEMENT_CUH_
