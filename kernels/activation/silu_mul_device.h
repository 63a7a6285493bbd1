// SwiGLU's product on the device. Stateless; enqueues on the stream; pointers are of device memory.
#ifndef PACELINE_KERNELS_ACTIVATION_SILU_MUL_DEVICE_H_
#define PACELINE_KERNELS_ACTIVATION_SILU_MUL_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

struct DeviceSiluMulArgs {
  const void* gate_up;  // [rows, 2 cols] of `dtype`: gate, then up
  void* out;            // [rows, cols]: silu(gate) * up
  int64_t rows;
  int64_t cols;
  DType dtype;  // kBF16 or kF16
};

// InvalidArgument for sizes that are not positive or another dtype; Internal when the launch fails.
absl::Status DeviceSiluMul(device::Stream stream, const DeviceSiluMulArgs& args);

// The same with GELU (by the hyperbolic tangent) instead of SiLU.
absl::Status DeviceGeluMul(device::Stream stream, const DeviceSiluMulArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ACTIVATION_SILU_MUL_DEVICE_H_
