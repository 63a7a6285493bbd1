// A block takes one row, a thread one element at a time. Bound by memory.
#include "absl/strings/str_cat.h"
#include "kernels/device/element.cuh"
#include "kernels/embedding/embed_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 128;

// GGUF's blocks of 32 columns: their bytes, and those before the numbers.
constexpr int kQ8Bytes = 34;
constexpr int kQ4_0Bytes = 18;
constexpr int kQ4_1Bytes = 20;

__device__ __forceinline__ uint16_t Load16(const uint8_t* p) {
  return *reinterpret_cast<const uint16_t*>(p);
}
__device__ __forceinline__ float LoadF16(const uint8_t* p) { return device::F16ToFloat(Load16(p)); }

// Column i is in the low half of byte i, or the high one of byte i - 16.
__device__ __forceinline__ float Nibble(const uint8_t* bytes, int column) {
  const int byte = bytes[column % 16];
  return static_cast<float>(column < 16 ? byte & 15 : byte >> 4);
}

// One type a format: bytes of a row, and the value of a column.
struct F32Row {
  static __device__ int64_t Bytes(int64_t cols) { return 4 * cols; }
  static __device__ float Value(const uint8_t* row, int column) {
    return reinterpret_cast<const float*>(row)[column];
  }
};
template <typename T>
struct HalfRow {
  static __device__ int64_t Bytes(int64_t cols) { return 2 * cols; }
  static __device__ float Value(const uint8_t* row, int column) {
    return T::ToFloat(Load16(row + 2 * column));
  }
};
struct Q8_0Row {
  static __device__ int64_t Bytes(int64_t cols) { return cols / 32 * kQ8Bytes; }
  static __device__ float Value(const uint8_t* row, int column) {
    const uint8_t* const block = row + column / 32 * kQ8Bytes;
    return LoadF16(block) * static_cast<float>(static_cast<int8_t>(block[2 + column % 32]));
  }
};
struct Q4_0Row {
  static __device__ int64_t Bytes(int64_t cols) { return cols / 32 * kQ4_0Bytes; }
  static __device__ float Value(const uint8_t* row, int column) {
    const uint8_t* const block = row + column / 32 * kQ4_0Bytes;
    return LoadF16(block) * (Nibble(block + 2, column % 32) - 8);
  }
};
struct Q4_1Row {
  static __device__ int64_t Bytes(int64_t cols) { return cols / 32 * kQ4_1Bytes; }
  static __device__ float Value(const uint8_t* row, int column) {
    const uint8_t* const block = row + column / 32 * kQ4_1Bytes;
    return LoadF16(block) * Nibble(block + 4, column % 32) + LoadF16(block + 2);
  }
};

template <typename Row>
__global__ void EmbedKernel(DeviceEmbedArgs args) {
  const int64_t i = device::BlockPosition().x;
  const int32_t id = args.ids[i] - args.first_id;
  const bool ours = id >= 0 && id < args.num_ids;
  const uint8_t* const row =
      static_cast<const uint8_t*>(args.table) + (ours ? id * Row::Bytes(args.cols) : 0);
  for (int32_t column = device::ThreadPosition().x; column < args.cols; column += kThreads) {
    args.out[i * args.cols + column] = ours ? Row::Value(row, column) : 0.0f;
  }
}

template <typename Row>
absl::Status Run(device::Stream stream, const DeviceEmbedArgs& args) {
  return device::Launch(stream, {args.rows}, {kThreads}, 0, EmbedKernel<Row>, args);
}

}  // namespace

absl::Status DeviceEmbed(device::Stream stream, const DeviceEmbedArgs& args) {
  const bool quantised = args.format == WeightFormat::kQ8_0 || args.format == WeightFormat::kQ4_0 ||
                         args.format == WeightFormat::kQ4_1;
  if (args.rows <= 0 || args.cols <= 0 || args.num_ids <= 0 ||
      (quantised && args.cols % kBlockK != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("DeviceEmbed: ",
                                                   args.rows,
                                                   " rows of table[num_ids, cols] [",
                                                   args.num_ids,
                                                   ", ",
                                                   args.cols,
                                                   "]: quantised columns come in blocks of 32"));
  }
  switch (args.format) {
    case WeightFormat::kF32:
      return Run<F32Row>(stream, args);
    case WeightFormat::kF16:
      return Run<HalfRow<device::F16>>(stream, args);
    case WeightFormat::kBF16:
    case WeightFormat::kBF16Pairs:
      return Run<HalfRow<device::Bf16>>(stream, args);
    case WeightFormat::kQ8_0:
      return Run<Q8_0Row>(stream, args);
    case WeightFormat::kQ4_0:
      return Run<Q4_0Row>(stream, args);
    case WeightFormat::kQ4_1:
      return Run<Q4_1Row>(stream, args);
  }
  return absl::InvalidArgumentError("DeviceEmbed: unknown format");
}

}  // namespace paceline::kernels
