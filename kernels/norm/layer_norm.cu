// A block normalises one row: three passes over it, the later ones from cache. Bound by memory:
// reads x (and the residual) and writes half as many bytes.
#include "absl/strings/str_cat.h"
#include "kernels/device/block.cuh"
#include "kernels/device/element.cuh"
#include "kernels/norm/layer_norm_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;

template <typename T>
__global__ void LayerNormKernel(DeviceLayerNormArgs args) {
  const int64_t first = device::BlockPosition().x * args.cols;
  auto* const scratch = reinterpret_cast<float*>(device::SharedMemory());
  float* const x = args.x + first;
  auto* const out = static_cast<uint16_t*>(args.out) + first;
  const auto cols = static_cast<float>(args.cols);
  float sum = 0;
  for (int64_t i = device::ThreadPosition().x; i < args.cols; i += kThreads) {
    if (args.residual != nullptr) x[i] += args.residual[first + i];
    sum += x[i];
  }
  const float mean = device::BlockSum<kWarps>(sum, scratch) / cols;
  float squares = 0;
  for (int64_t i = device::ThreadPosition().x; i < args.cols; i += kThreads) {
    squares += (x[i] - mean) * (x[i] - mean);
  }
  const float variance = device::BlockSum<kWarps>(squares, scratch) / cols;
  const float scale = device::InverseSqrt(variance + args.eps);
  for (int64_t i = device::ThreadPosition().x; i < args.cols; i += kThreads) {
    const float value = (x[i] - mean) * scale * args.weight[i];
    out[i] = T::FromFloat(args.bias == nullptr ? value : value + args.bias[i]);
  }
}

}  // namespace

absl::Status DeviceLayerNorm(device::Stream stream, const DeviceLayerNormArgs& args) {
  if (args.rows <= 0 || args.cols <= 0 ||
      (args.dtype != DType::kBF16 && args.dtype != DType::kF16)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "DeviceLayerNorm: x[rows, cols] [", args.rows, ", ", args.cols, "], out of bf16 or f16"));
  }
  return device::Launch(
      stream,
      {static_cast<int32_t>(args.rows)},
      {kThreads},
      kWarps * sizeof(float),
      args.dtype == DType::kBF16 ? LayerNormKernel<device::Bf16> : LayerNormKernel<device::F16>,
      args);
}

}  // namespace paceline::kernels
