// y = x w^T on the device, for any number of rows. Stateless; enqueues on the stream; pointers are
// of device memory.
//
// An output's bits depend on its row of x and its row of w alone: K is summed in one order
// (weight_block.cuh) whatever the number of rows.
#ifndef PACELINE_KERNELS_GEMM_MATMUL_DEVICE_H_
#define PACELINE_KERNELS_GEMM_MATMUL_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/gemm/device_matrix.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

struct DeviceMatmulArgs {
  const void* x;  // [rows, w.k] of `dtype`, at an address divisible by 16
  DeviceMatrix w;
  const float* bias;  // [w.n], or null
  void* y;            // [rows, w.n] of `y_dtype`
  int64_t y_stride;   // elements from a row of y to the next; 0: w.n
  int32_t rows;
  bool accumulate;  // add to y instead of overwriting it; y is float32
  DType dtype;      // kBF16 or kF16; that of w when it is not quantised
  DType y_dtype;    // kF32, or `dtype`
};

// InvalidArgument for sizes or types that do not fit; Internal when the launch fails.
absl::Status DeviceMatmul(device::Stream stream, const DeviceMatmulArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_MATMUL_DEVICE_H_
