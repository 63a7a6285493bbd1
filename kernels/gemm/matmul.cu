// Weights are the tensor cores' left operand, rows of x the right one, eight at a time, so that one
// row of x costs no more memory traffic than eight. A block computes 16 rows of w for up to 32 of
// x; a warp takes one part of K. Bound by reading w for few rows.
#include "absl/strings/str_cat.h"
#include "kernels/gemm/weight_block.cuh"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 32 * kParts;
constexpr int kTiles = 4;  // a thread block
constexpr int kBatch = 4;  // blocks of weights that are under way at a time
constexpr int kManyRows = 64;
constexpr int kSumsOfTile = kGroupRows * kTileRows;

// The part's sums of this warp's tiles.
template <typename T, typename Block>
__device__ __forceinline__ void SumPart(const DeviceMatmulArgs& args,
                                        int64_t group,
                                        PartOfK part,
                                        int first_row,
                                        float (&sums)[kTiles][4]) {
  const int lane = device::ThreadPosition().x % 32;
  const int num_blocks = args.w.k / kBlockK;
  const int rows_left = args.rows - first_row;
  const auto* const x = static_cast<const uint16_t*>(args.x) + int64_t{first_row} * args.w.k;
  for (int first = part.begin; first < part.end; first += kBatch) {
    Block blocks[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int64_t at = group * num_blocks + first + i;
      if (first + i >= part.end) break;
      blocks[i].Load(static_cast<const char*>(args.w.values) + at * Block::kValueBytes,
                     reinterpret_cast<const char*>(args.w.scales) + at * Block::kScaleBytes,
                     lane);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (first + i >= part.end) break;
      uint32_t a[2][4];
      blocks[i].Fragment(0, a[0]);
      blocks[i].Fragment(1, a[1]);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile * kTileRows >= rows_left) break;
        const int row = tile * kTileRows + lane / 4;
        Words4 inputs_of_row = {};
        if (row < rows_left) {
          inputs_of_row = *reinterpret_cast<const Words4*>(x + int64_t{row} * args.w.k +
                                                           (first + i) * kBlockK + lane % 4 * 8);
        }
        float inputs[4];
        if constexpr (Block::kHasMinimum) SumInputs<T>(inputs_of_row, inputs);
        AddBlock<T>(blocks[i], a, inputs_of_row, inputs, sums[tile]);
      }
    }
  }
}

template <typename T, typename Block>
__global__ void MatmulKernel(DeviceMatmulArgs args) {
  const int part = device::ThreadPosition().x / 32;
  const int lane = device::ThreadPosition().x % 32;
  const int64_t group = device::BlockPosition().x;
  const int first_row = device::BlockPosition().y * kTiles * kTileRows;
  const int rows_left = args.rows - first_row;
  float sums[kTiles][4] = {};
  SumPart<T, Block>(args, group, GetPart(part, args.w.k / kBlockK), first_row, sums);

  // [part][tile][row of x][row of w]
  auto* const shared = reinterpret_cast<float*>(device::SharedMemory());
  for (int tile = 0; tile < kTiles; ++tile) {
    for (int i = 0; i < 4; ++i) {
      const int row = lane % 4 * 2 + i % 2;
      const int n = lane / 4 + i / 2 * 8;
      shared[((part * kTiles + tile) * kTileRows + row) * kGroupRows + n] = sums[tile][i];
    }
  }
  device::SyncThreads();
  for (int i = device::ThreadPosition().x; i < kTiles * kSumsOfTile; i += kThreads) {
    const int row = i / kGroupRows;
    const int64_t n = group * kGroupRows + i % kGroupRows;
    if (row >= rows_left || n >= args.w.n) continue;
    float sum = 0;
    for (int p = 0; p < kParts; ++p) sum += shared[p * kTiles * kSumsOfTile + i];
    StoreOutput<T>(args, first_row + row, n, sum);
  }
}

absl::Status RunFewRows(device::Stream stream, const DeviceMatmulArgs& args) {
  constexpr int kBlockTileRows = kTiles * kTileRows;
  return ForTypes(args, [&]<typename T, typename Block>() {
    return device::Launch(stream,
                          {(args.w.n + kGroupRows - 1) / kGroupRows,
                           (args.rows + kBlockTileRows - 1) / kBlockTileRows},
                          {kThreads},
                          kParts * kTiles * kSumsOfTile * sizeof(float),
                          MatmulKernel<T, Block>,
                          args);
  });
}

absl::Status CheckTypes(const DeviceMatmulArgs& args) {
  const bool bf16 = args.dtype == DType::kBF16;
  if (!bf16 && args.dtype != DType::kF16) {
    return absl::InvalidArgumentError("DeviceMatmul: x must be bf16 or f16");
  }
  if (args.w.format == (bf16 ? DeviceFormat::kF16 : DeviceFormat::kBF16)) {
    return absl::InvalidArgumentError("DeviceMatmul: x and w are of different 16-bit types");
  }
  if (args.y_dtype != DType::kF32 && (args.y_dtype != args.dtype || args.accumulate)) {
    return absl::InvalidArgumentError(
        "DeviceMatmul: y must be float32, or without accumulation of x's type");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DeviceMatmul(device::Stream stream, const DeviceMatmulArgs& args) {
  if (args.rows < 1 || args.w.n <= 0 || args.w.k <= 0 || args.w.k % kBlockK != 0 ||
      (args.y_stride != 0 && args.y_stride < args.w.n)) {
    return absl::InvalidArgumentError(absl::StrCat("DeviceMatmul: x[rows, k] [",
                                                   args.rows,
                                                   ", ",
                                                   args.w.k,
                                                   "], w[n, k] [",
                                                   args.w.n,
                                                   ", ",
                                                   args.w.k,
                                                   "], y's rows ",
                                                   args.y_stride,
                                                   " apart: k comes in blocks of 32"));
  }
  if (auto status = CheckTypes(args); !status.ok()) return status;
  DeviceMatmulArgs full = args;
  if (full.y_stride == 0) full.y_stride = args.w.n;
  // The bits are the same; which is faster is not.
  return args.rows < kManyRows ? RunFewRows(stream, full) : RunTiledMatmul(stream, full);
}

}  // namespace paceline::kernels
