// Weights for the device's matmul, and how they are packed on the host. Plain values; the memory
// that a DeviceMatrix points at is its owner's.
//
// Groups of 16 rows by blocks of 32 columns, in the order in which a warp's lanes hold the left
// operand of mma.m16n8k16. Of a block's columns, lane l has 8 (l % 4) to 8 (l % 4) + 7 (in the
// right operand, too, which so is one load of 16 bytes), of rows l / 4 and l / 4 + 8:
//   column 4 h + 2 s + e of the eight, of the first row (r = 0) or the second (1), is element e of
//   register 2 s + r of the block's half h.
// Rows past n are zeros.
#ifndef PACELINE_KERNELS_GEMM_DEVICE_MATRIX_H_
#define PACELINE_KERNELS_GEMM_DEVICE_MATRIX_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// As large as in the file, but for kQ4 of Q4_0, which is stored as Q4_1 (a ninth more).
enum class DeviceFormat {
  kBF16,  // values [n / 16][k / 32][half][lane][8 elements]
  kF16,   // the same
  kQ8,    // value = d * (byte - 128): values [n / 16][k / 32][lane][half][low, high nibbles] of 32
          // bits each, scales [n / 16][k / 32][16 rows]
  kQ4,    // value = d * nibble + m: values [n / 16][k / 32][lane][half] of 32 bits, scales
          // [n / 16][k / 32][16 rows][d, m]; Q4_0 has m = -8 d
};
// Of 32 bits of nibbles, element e of register i is at bit 4 i + 16 e.

struct DeviceMatrix {
  DeviceFormat format;
  const void* values;      // at an address divisible by 16
  const uint16_t* scales;  // f16, at an address divisible by 16; null without
  int32_t n;
  int32_t k;  // a multiple of 32
};

// The same in host memory.
struct PackedDeviceMatrix {
  DeviceFormat format;
  int32_t n;
  int32_t k;
  std::vector<uint8_t> values;
  std::vector<uint16_t> scales;
};

// Packs the rows of all sources, in order, as one matrix. Unquantised weights are rounded to
// `dtype`, the type that x will have. InvalidArgument when k is not a multiple of 32 or dtype is
// neither kBF16 nor kF16.
absl::StatusOr<PackedDeviceMatrix> PackForDevice(WeightFormat format,
                                                 absl::Span<const MatrixSource> sources,
                                                 int64_t k,
                                                 DType dtype);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_DEVICE_MATRIX_H_
