// y = x w^T of a few rows on the device, with weights of 4 bits as a GGUF file has them: what
// decodes of small batches are made of. Stateless; enqueues on the stream; pointers are of device
// memory unless it says otherwise.
#ifndef PACELINE_KERNELS_GEMM_QUANTIZED_GEMV_DEVICE_H_
#define PACELINE_KERNELS_GEMM_QUANTIZED_GEMV_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

constexpr int32_t kMaxGemvRows = 8;

// Blocks of 32 columns apart from their scales, so that a warp reads whole lines of both:
//   nibbles [n][k / 32][16 bytes]: columns 0 to 15 in the low halves, 16 to 31 in the high ones
//   scales  [n][k / 32][d, m] f16: value = d * nibble + m
// Q4_0 has m = -8 d. As many bytes as Q4_1 in the file.
struct DeviceQ4Matrix {
  const uint8_t* nibbles;
  const uint16_t* scales;
  int32_t n;
  int32_t k;  // a multiple of 32
};

struct QuantizedGemvArgs {
  const void* x;  // [rows, k] of `dtype`
  DeviceQ4Matrix w;
  float* y;      // [rows, n]
  int32_t rows;  // 1 to 8
  bool accumulate;
  DType dtype;  // kBF16 or kF16
};

// Splits a row-major Q4_1 or Q4_0 tensor of a GGUF file; host memory throughout. `nibbles` has
// n * k / 2 bytes, `scales` n * k / 16 elements. REQUIRES: k is a multiple of 32.
void SplitQ4_1(const uint8_t* rows, int64_t n, int64_t k, uint8_t* nibbles, uint16_t* scales);
void SplitQ4_0(const uint8_t* rows, int64_t n, int64_t k, uint8_t* nibbles, uint16_t* scales);

// An output's bits depend on its row of x and its row of w, not on the number of rows.
// InvalidArgument for sizes that do not fit; Internal when the launch fails.
absl::Status QuantizedGemv(device::Stream stream, const QuantizedGemvArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_QUANTIZED_GEMV_DEVICE_H_
