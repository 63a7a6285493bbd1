// y = x w^T on the device with weights of 4 bits, for any number of rows. Stateless; enqueues on
// the stream; pointers are of device memory unless it says otherwise.
//
// An output's bits depend on its row of x and its row of w alone: K is summed in one order whatever
// the number of rows.
#ifndef PACELINE_KERNELS_GEMM_QUANTIZED_MATMUL_DEVICE_H_
#define PACELINE_KERNELS_GEMM_QUANTIZED_MATMUL_DEVICE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/gemm/gemm_kernels.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// Groups of 16 rows by blocks of 32 columns, in the order in which the lanes of a warp hold the
// left operand of mma.m16n8k16; as many bytes as Q4_1 in a file.
//   nibbles [n / 16][k / 32][32 lanes][8 bytes]
//   scales  [n / 16][k / 32][16 rows][d, m] f16: value = d * nibble + m; Q4_0 has m = -8 d
// Rows past n are zeros.
struct DeviceQ4Matrix {
  const uint8_t* nibbles;
  const uint16_t* scales;
  int32_t n;
  int32_t k;  // a multiple of 32
};

// The same in host memory.
struct PackedQ4 {
  std::vector<uint8_t> nibbles;
  std::vector<uint16_t> scales;
};

// Packs a row-major tensor of a GGUF file. REQUIRES: format is kQ4_1 or kQ4_0, k a multiple of 32.
PackedQ4 PackQ4(WeightFormat format, const uint8_t* rows, int64_t n, int64_t k);

struct QuantizedMatmulArgs {
  const void* x;  // [rows, k] of `dtype`
  DeviceQ4Matrix w;
  float* y;  // [rows, n]
  int32_t rows;
  bool accumulate;  // add to y instead of overwriting it
  DType dtype;      // kBF16 or kF16
};

// InvalidArgument for sizes that do not fit; Internal when the launch fails.
absl::Status QuantizedMatmul(device::Stream stream, const QuantizedMatmulArgs& args);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_QUANTIZED_MATMUL_DEVICE_H_
