// Layer norm on the device, with the addition before it. Stateless; enqueues on the stream;
// pointers are of device memory.
#ifndef PACELINE_KERNELS_NORM_LAYER_NORM_DEVICE_H_
#define PACELINE_KERNELS_NORM_LAYER_NORM_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

struct DeviceLayerNormArgs {
  float* x;               // [rows, cols], the residual stream
  const float* residual;  // [rows, cols], added to x first, in place; or null
  const float* weight;    // [cols]
  const float* bias;      // [cols], or null
  void* out;              // [rows, cols] of `dtype`: (x - mean) / deviation * weight + bias
  int64_t rows;
  int64_t cols;
  float eps;
  DType dtype;  // kBF16 or kF16
};

// A row's bits depend on that row alone. InvalidArgument for sizes that are not positive or another
// dtype; Internal when the launch fails.
absl::Status DeviceLayerNorm(device::Stream stream, const DeviceLayerNormArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_NORM_LAYER_NORM_DEVICE_H_
