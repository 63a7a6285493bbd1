// A warp computes one row of w for all rows of x: lane l takes blocks l, l + 32, ... with one load
// of 16 bytes each, dequantises in registers, and a butterfly adds the lanes up. x stays in L1.
// Bound by reading w once.
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/device/element.cuh"
#include "kernels/gemm/quantized_gemv_device.h"
#include "kernels/half.h"

namespace paceline::kernels {
namespace {

constexpr int kWarps = 4;

template <typename T, int kRows>
__global__ void GemvKernel(QuantizedGemvArgs args) {
  const int lane = device::ThreadPosition().x % 32;
  const int64_t n = int64_t{device::BlockPosition().x} * kWarps + device::ThreadPosition().x / 32;
  if (n >= args.w.n) return;  // the whole warp
  const int num_blocks = args.w.k / 32;
  const auto* const x = static_cast<const uint16_t*>(args.x);
  float sums[kRows] = {};
  for (int block = lane; block < num_blocks; block += 32) {
    const int64_t at = n * num_blocks + block;
    uint32_t words[4];
    for (int i = 0; i < 4; ++i) {
      words[i] = reinterpret_cast<const uint32_t*>(args.w.nibbles)[at * 4 + i];
    }
    const float d = device::F16ToFloat(args.w.scales[2 * at]);
    const float m = device::F16ToFloat(args.w.scales[2 * at + 1]);
    for (int row = 0; row < kRows; ++row) {
      const uint16_t* const part = x + int64_t{row} * args.w.k + block * 32;
      float products = 0;
      float sum = 0;
      for (int i = 0; i < 16; ++i) {
        const uint32_t byte = words[i / 4] >> (i % 4 * 8);
        const float low = T::ToFloat(part[i]);
        const float high = T::ToFloat(part[i + 16]);
        products += static_cast<float>(byte & 15) * low;
        products += static_cast<float>(byte >> 4 & 15) * high;
        sum += low + high;
      }
      sums[row] += d * products + m * sum;
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int mask = 16; mask > 0; mask /= 2) sums[row] += device::ShuffleXor(sums[row], mask);
    if (lane != 0) continue;
    float* const y = args.y + int64_t{row} * args.w.n + n;
    *y = args.accumulate ? *y + sums[row] : sums[row];
  }
}

template <typename T, int kRows = kMaxGemvRows>
absl::Status Run(device::Stream stream, const QuantizedGemvArgs& args) {
  if (args.rows == kRows) {
    return device::Launch(
        stream, {(args.w.n + kWarps - 1) / kWarps}, {32 * kWarps}, 0, GemvKernel<T, kRows>, args);
  }
  if constexpr (kRows > 1) return Run<T, kRows - 1>(stream, args);
  return absl::InternalError("unreachable");
}

}  // namespace

void SplitQ4_1(const uint8_t* rows, int64_t n, int64_t k, uint8_t* nibbles, uint16_t* scales) {
  for (int64_t block = 0; block < n * k / 32; ++block, rows += 20) {
    std::memcpy(scales + 2 * block, rows, 4);
    std::memcpy(nibbles + 16 * block, rows + 4, 16);
  }
}

void SplitQ4_0(const uint8_t* rows, int64_t n, int64_t k, uint8_t* nibbles, uint16_t* scales) {
  for (int64_t block = 0; block < n * k / 32; ++block, rows += 18) {
    std::memcpy(scales + 2 * block, rows, 2);
    // Eight times a number of the type is one, unless it is too large.
    scales[2 * block + 1] = FloatToHalf(-8 * HalfToFloat(scales[2 * block]));
    std::memcpy(nibbles + 16 * block, rows + 2, 16);
  }
}

absl::Status QuantizedGemv(device::Stream stream, const QuantizedGemvArgs& args) {
  if (args.rows < 1 || args.rows > kMaxGemvRows || args.w.n <= 0 || args.w.k <= 0 ||
      args.w.k % 32 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("QuantizedGemv: x[rows, k] [",
                                                   args.rows,
                                                   ", ",
                                                   args.w.k,
                                                   "], w[n, k] [",
                                                   args.w.n,
                                                   ", ",
                                                   args.w.k,
                                                   "]: 1 to 8 rows, k in blocks of 32"));
  }
  switch (args.dtype) {
    case DType::kBF16:
      return Run<device::Bf16>(stream, args);
    case DType::kF16:
      return Run<device::F16>(stream, args);
    default:
      return absl::InvalidArgumentError("QuantizedGemv: x must be bf16 or f16");
  }
}

}  // namespace paceline::kernels
