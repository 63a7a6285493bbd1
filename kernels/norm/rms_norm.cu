// A block normalises one row: two passes over it, the second from cache. Bound by memory: reads x
// (and the residual) and writes half as many bytes.
#include "absl/strings/str_cat.h"
#include "kernels/device/block.cuh"
#include "kernels/device/element.cuh"
#include "kernels/norm/rms_norm_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

template <typename T>
__global__ void RmsNormKernel(
    float* x, const float* residual, const float* weight, float eps, int64_t cols, uint16_t* out) {
  const int64_t row = device::BlockPosition().x * cols;
  float sum = 0;
  for (int64_t i = device::ThreadPosition().x; i < cols; i += kThreads) {
    float value = x[row + i];
    if (residual != nullptr) {
      value += residual[row + i];
      x[row + i] = value;
    }
    sum += value * value;
  }
  sum = device::BlockSum<kWarps>(sum, reinterpret_cast<float*>(device::SharedMemory()));
  const float scale = device::InverseSqrt(sum / static_cast<float>(cols) + eps);
  for (int64_t i = device::ThreadPosition().x; i < cols; i += kThreads) {
    out[row + i] = T::FromFloat(x[row + i] * scale * weight[i]);
  }
}

}  // namespace

absl::Status DeviceRmsNorm(device::Stream stream, const DeviceRmsNormArgs& args) {
  if (args.rows <= 0 || args.cols <= 0 ||
      (args.dtype != DType::kBF16 && args.dtype != DType::kF16)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "DeviceRmsNorm: x[rows, cols] [", args.rows, ", ", args.cols, "], out of bf16 or f16"));
  }
  const auto kernel =
      args.dtype == DType::kBF16 ? RmsNormKernel<device::Bf16> : RmsNormKernel<device::F16>;
  return device::Launch(stream,
                        {static_cast<int32_t>(args.rows)},
                        {kThreads},
                        kWarps * sizeof(float),
                        kernel,
                        args.x,
                        args.residual,
                        args.weight,
                        args.eps,
                        args.cols,
                        static_cast<uint16_t*>(args.out));
}

}  // namespace paceline::kernels
