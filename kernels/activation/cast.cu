// One thread an element. Bound by memory.
#include "absl/strings/str_cat.h"
#include "kernels/activation/cast_device.h"
#include "kernels/device/element.cuh"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ int64_t Element() {
  return int64_t{device::BlockPosition().x} * kThreads + device::ThreadPosition().x;
}

template <typename T>
__global__ void RoundKernel(const float* from, int64_t count, uint16_t* to) {
  if (Element() < count) to[Element()] = T::FromFloat(from[Element()]);
}

template <typename T>
__global__ void WidenKernel(const uint16_t* from, int64_t count, float* to) {
  if (Element() < count) to[Element()] = T::ToFloat(from[Element()]);
}

template <typename From, typename To>
absl::Status Run(device::Stream stream,
                 const char* op,
                 const From* from,
                 To* to,
                 int64_t count,
                 DType dtype,
                 void (*bf16)(const From*, int64_t, To*),
                 void (*f16)(const From*, int64_t, To*)) {
  if (count <= 0 || (dtype != DType::kBF16 && dtype != DType::kF16)) {
    return absl::InvalidArgumentError(absl::StrCat(op, ": ", count, " elements of bf16 or f16"));
  }
  const auto blocks = static_cast<int32_t>((count + kThreads - 1) / kThreads);
  return device::Launch(
      stream, {blocks}, {kThreads}, 0, dtype == DType::kBF16 ? bf16 : f16, from, count, to);
}

}  // namespace

absl::Status DeviceRound(
    device::Stream stream, const float* from, void* to, int64_t count, DType dtype) {
  return Run(stream,
             "DeviceRound",
             from,
             static_cast<uint16_t*>(to),
             count,
             dtype,
             RoundKernel<device::Bf16>,
             RoundKernel<device::F16>);
}

absl::Status DeviceWiden(
    device::Stream stream, const void* from, float* to, int64_t count, DType dtype) {
  return Run(stream,
             "DeviceWiden",
             static_cast<const uint16_t*>(from),
             to,
             count,
             dtype,
             WidenKernel<device::Bf16>,
             WidenKernel<device::F16>);
}

}  // namespace paceline::kernels
