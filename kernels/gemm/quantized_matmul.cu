// Weights are the tensor cores' left operand, rows of x the right one, eight at a time, so that one
// row of x costs no more memory traffic than eight. Nibbles are multiplied as they are, exactly; a
// block's sum is then scaled in float32, and its minimum is multiplied by the sum of the block's
// inputs, which an operand of ones gives in the same layout.
//
// A block computes 16 rows of w for up to 32 of x. Warp i takes blocks of columns i, i + 4, ...;
// the four sums are added in order. Bound by reading w for few rows.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/device/element.cuh"
#include "kernels/gemm/quantized_matmul_device.h"
#include "kernels/half.h"

namespace paceline::kernels {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kGroupRows = 16;
constexpr int kTileRows = 8;  // of x
constexpr int kTiles = 4;     // a block
constexpr int kSumsOfTile = kGroupRows * kTileRows;

// Element 2 i and 2 i + 1 of a lane's 16 are nibbles i of the low and the high four bits of byte i.
template <typename T>
__device__ __forceinline__ uint32_t PairOfNibbles(uint32_t word, int byte) {
  const uint32_t bits = word >> (8 * byte);
  return device::Pack<T>(static_cast<float>(bits & 15), static_cast<float>(bits >> 4 & 15));
}

template <typename T>
__global__ void MatmulKernel(QuantizedMatmulArgs args) {
  const int warp = device::ThreadPosition().x / 32;
  const int lane = device::ThreadPosition().x % 32;
  const int64_t group = device::BlockPosition().x;
  const int first_row = device::BlockPosition().y * kTiles * kTileRows;
  const int rows_left = args.rows - first_row;
  const int num_blocks = args.w.k / 32;
  const auto* const x = static_cast<const uint16_t*>(args.x);
  const uint32_t one = device::Pack<T>(1.0f, 1.0f);
  const uint32_t ones[4] = {one, one, one, one};
  float sums[kTiles][4] = {};
  for (int block = warp; block < num_blocks; block += kWarps) {
    const int64_t at = group * num_blocks + block;
    const auto* const words =
        reinterpret_cast<const uint32_t*>(args.w.nibbles) + (at * 32 + lane) * 2;
    const uint16_t* const scales = args.w.scales + at * 2 * kGroupRows;
    // Of the lane's two rows.
    float d[2];
    float m[2];
    for (int h = 0; h < 2; ++h) {
      d[h] = device::F16ToFloat(scales[2 * (lane / 4 + 8 * h)]);
      m[h] = device::F16ToFloat(scales[2 * (lane / 4 + 8 * h) + 1]);
    }
    uint32_t a[2][4];
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 4; ++i) a[half][i] = PairOfNibbles<T>(words[half], i);
    }
    for (int tile = 0; tile < kTiles && tile * kTileRows < rows_left; ++tile) {
      const int row = tile * kTileRows + lane / 4;
      float products[4] = {};
      float inputs[4] = {};
      for (int half = 0; half < 2; ++half) {
        uint32_t b[2] = {0, 0};
        if (row < rows_left) {
          const uint16_t* const from =
              x + int64_t{first_row + row} * args.w.k + block * 32 + half * 16 + lane % 4 * 2;
          b[0] = from[0] | static_cast<uint32_t>(from[1]) << 16;
          b[1] = from[8] | static_cast<uint32_t>(from[9]) << 16;
        }
        T::Mma(products, a[half], b);
        T::Mma(inputs, ones, b);
      }
      for (int i = 0; i < 4; ++i) {
        const float with_scale = device::MulAdd(d[i / 2], products[i], sums[tile][i]);
        sums[tile][i] = device::MulAdd(m[i / 2], inputs[i], with_scale);
      }
    }
  }
  // [warp][tile][row of x][row of w]
  auto* const shared = reinterpret_cast<float*>(device::SharedMemory());
  for (int tile = 0; tile < kTiles; ++tile) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane % 4 * 2 + i % 2;
      const int n = lane / 4 + i / 2 * 8;
      shared[((warp * kTiles + tile) * kTileRows + row) * kGroupRows + n] = sums[tile][i];
    }
  }
  device::SyncThreads();
  for (int i = device::ThreadPosition().x; i < kTiles * kSumsOfTile; i += kThreads) {
    const int row = i / kGroupRows;
    const int64_t n = group * kGroupRows + i % kGroupRows;
    if (row >= rows_left || n >= args.w.n) continue;
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += shared[w * kTiles * kSumsOfTile + i];
    float* const y = args.y + int64_t{first_row + row} * args.w.n + n;
    *y = args.accumulate ? *y + sum : sum;
  }
}

}  // namespace

PackedQ4 PackQ4(WeightFormat format, const uint8_t* rows, int64_t n, int64_t k) {
  const bool has_min = format == WeightFormat::kQ4_1;
  const int64_t block_bytes = has_min ? 20 : 18;
  const int64_t num_blocks = k / 32;
  const int64_t num_groups = (n + kGroupRows - 1) / kGroupRows;
  PackedQ4 packed;
  packed.nibbles.resize(num_groups * num_blocks * 256);
  packed.scales.resize(num_groups * num_blocks * 2 * kGroupRows);
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t block = 0; block < num_blocks; ++block, rows += block_bytes) {
      const int64_t at = row / kGroupRows * num_blocks + block;
      uint16_t* const scales = &packed.scales[(at * kGroupRows + row % kGroupRows) * 2];
      std::memcpy(scales, rows, has_min ? 4 : 2);
      if (!has_min) scales[1] = FloatToHalf(-8 * HalfToFloat(scales[0]));
      for (int64_t column = 0; column < 32; ++column) {
        const uint8_t byte = rows[block_bytes - 16 + column % 16];
        const int nibble = column < 16 ? byte & 15 : byte >> 4;
        // The lane and the element of its left operand: PTX, mma.m16n8k16.
        const int64_t lane = row % 8 * 4 + column % 8 / 2;
        const int64_t pair = row % kGroupRows / 8 + column % 16 / 8 * 2;
        const int64_t half = column / 16;
        packed.nibbles[(at * 32 + lane) * 8 + half * 4 + pair] |=
            static_cast<uint8_t>(nibble << (column % 2 * 4));
      }
    }
  }
  return packed;
}

absl::Status QuantizedMatmul(device::Stream stream, const QuantizedMatmulArgs& args) {
  if (args.rows < 1 || args.w.n <= 0 || args.w.k <= 0 || args.w.k % 32 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("QuantizedMatmul: x[rows, k] [",
                                                   args.rows,
                                                   ", ",
                                                   args.w.k,
                                                   "], w[n, k] [",
                                                   args.w.n,
                                                   ", ",
                                                   args.w.k,
                                                   "]: k comes in blocks of 32"));
  }
  if (args.dtype != DType::kBF16 && args.dtype != DType::kF16) {
    return absl::InvalidArgumentError("QuantizedMatmul: x must be bf16 or f16");
  }
  constexpr int kBlockTileRows = kTiles * kTileRows;
  return device::Launch(
      stream,
      {(args.w.n + kGroupRows - 1) / kGroupRows, (args.rows + kBlockTileRows - 1) / kBlockTileRows},
      {kThreads},
      kWarps * kTiles * kSumsOfTile * sizeof(float),
      args.dtype == DType::kBF16 ? MatmulKernel<device::Bf16> : MatmulKernel<device::F16>,
      args);
}

}  // namespace paceline::kernels
