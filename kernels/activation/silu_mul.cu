// One thread an element. Bound by memory.
#include "absl/strings/str_cat.h"
#include "kernels/activation/silu_mul_device.h"
#include "kernels/device/element.cuh"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;

struct Silu {
  static __device__ float Apply(float x) { return x / (1.0f + device::Exp(-x)); }
};
// By the hyperbolic tangent.
struct Gelu {
  static __device__ float Apply(float x) {
    constexpr float kSqrt2OverPi = 0.797884560f;
    return 0.5f * x * (1.0f + device::Tanh(kSqrt2OverPi * (x + 0.044715f * x * x * x)));
  }
};

template <typename T, typename Activation>
__global__ void GatedMulKernel(const uint16_t* gate_up, int64_t cols, uint16_t* out) {
  const int64_t row = device::BlockPosition().y;
  const int64_t i = int64_t{device::BlockPosition().x} * kThreads + device::ThreadPosition().x;
  if (i >= cols) return;
  const float gate = T::ToFloat(gate_up[row * 2 * cols + i]);
  const float up = T::ToFloat(gate_up[row * 2 * cols + cols + i]);
  out[row * cols + i] = T::FromFloat(Activation::Apply(gate) * up);
}

template <typename Activation>
absl::Status Run(device::Stream stream, const char* op, const DeviceSiluMulArgs& args) {
  if (args.rows <= 0 || args.rows > 65535 || args.cols <= 0 ||
      (args.dtype != DType::kBF16 && args.dtype != DType::kF16)) {
    return absl::InvalidArgumentError(absl::StrCat(op,
                                                   ": out[rows, cols] [",
                                                   args.rows,
                                                   ", ",
                                                   args.cols,
                                                   "] of bf16 or f16, at most 65535 rows"));
  }
  const auto blocks = static_cast<int32_t>((args.cols + kThreads - 1) / kThreads);
  return device::Launch(stream,
                        {blocks, static_cast<int32_t>(args.rows)},
                        {kThreads},
                        0,
                        args.dtype == DType::kBF16 ? GatedMulKernel<device::Bf16, Activation>
                                                   : GatedMulKernel<device::F16, Activation>,
                        static_cast<const uint16_t*>(args.gate_up),
                        args.cols,
                        static_cast<uint16_t*>(args.out));
}

}  // namespace

absl::Status DeviceSiluMul(device::Stream stream, const DeviceSiluMulArgs& args) {
  return Run<Silu>(stream, "DeviceSiluMul", args);
}

absl::Status DeviceGeluMul(device::Stream stream, const DeviceSiluMulArgs& args) {
  return Run<Gelu>(stream, "DeviceGeluMul", args);
}

}  // namespace paceline::kernels
