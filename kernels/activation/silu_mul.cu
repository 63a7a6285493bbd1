// One thread an element. Bound by memory.
#include "absl/strings/str_cat.h"
#include "kernels/activation/silu_mul_device.h"
#include "kernels/device/element.cuh"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;

template <typename T>
__global__ void SiluMulKernel(const uint16_t* gate_up, int64_t cols, uint16_t* out) {
  const int64_t row = device::BlockPosition().y;
  const int64_t i = int64_t{device::BlockPosition().x} * kThreads + device::ThreadPosition().x;
  if (i >= cols) return;
  const float gate = T::ToFloat(gate_up[row * 2 * cols + i]);
  const float up = T::ToFloat(gate_up[row * 2 * cols + cols + i]);
  out[row * cols + i] = T::FromFloat(gate / (1.0f + device::Exp(-gate)) * up);
}

}  // namespace

absl::Status DeviceSiluMul(device::Stream stream, const DeviceSiluMulArgs& args) {
  if (args.rows <= 0 || args.rows > 65535 || args.cols <= 0 ||
      (args.dtype != DType::kBF16 && args.dtype != DType::kF16)) {
    return absl::InvalidArgumentError(absl::StrCat("DeviceSiluMul: out[rows, cols] [",
                                                   args.rows,
                                                   ", ",
                                                   args.cols,
                                                   "] of bf16 or f16, at most 65535 rows"));
  }
  const auto kernel =
      args.dtype == DType::kBF16 ? SiluMulKernel<device::Bf16> : SiluMulKernel<device::F16>;
  const auto blocks = static_cast<int32_t>((args.cols + kThreads - 1) / kThreads);
  return device::Launch(stream,
                        {blocks, static_cast<int32_t>(args.rows)},
                        {kThreads},
                        0,
                        kernel,
                        static_cast<const uint16_t*>(args.gate_up),
                        args.cols,
                        static_cast<uint16_t*>(args.out));
}

}  // namespace paceline::kernels
