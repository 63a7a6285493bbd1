// A block computes 128 rows of w for 128 of x, a warp 64 for 32, with what fixes an output's bits
// in matmul.cu's order. Blocks of 32 columns of both come by asynchronous copies in four stages;
// the sums over parts wait in shared memory, each its thread's own. Bound by the tensor cores, and
// with quantised weights by scaling, too.
#include "kernels/gemm/weight_block.cuh"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kStages = 4;
constexpr int kGroups = 8;  // of 16 rows of w, a thread block
constexpr int kRows = 128;  // of x
constexpr int kWarpsByGroups = 2;
constexpr int kWarpGroups = kGroups / kWarpsByGroups;
constexpr int kWarpTiles = kRows / kTileRows / (kThreads / 32 / kWarpsByGroups);
constexpr int kSums = kWarpGroups * kWarpTiles * 4;  // of a thread

constexpr int kPieceBytes = 16;
constexpr int kRowBytes =
    kBlockK * sizeof(uint16_t);  // of x in a stage: a warp's loads are adjacent
constexpr int kXBytes = kRows * kRowBytes;
template <typename Block>
constexpr int kStageBytes = kXBytes + kGroups*(Block::kValueBytes + Block::kScaleBytes);
constexpr int kTotalBytes = kSums * kThreads * sizeof(float);

template <typename Block>
class Tile {
 public:
  __device__ explicit Tile(const DeviceMatmulArgs& args)
      : args_(args),
        num_blocks_(args.w.k / kBlockK),
        num_groups_((args.w.n + kGroupRows - 1) / kGroupRows),
        first_group_(device::BlockPosition().x * kGroups),
        first_row_(device::BlockPosition().y * kRows) {}

  __device__ int num_blocks() const { return num_blocks_; }
  __device__ int64_t first_group() const { return first_group_; }
  __device__ int64_t first_row() const { return first_row_; }

  // Starts the copies of a block of columns, if there is one. Rows past the end are the last one:
  // what becomes of them is not stored.
  __device__ void Copy(int block) const {
    if (block < num_blocks_) {
      char* const stage = Stage(block);
      CopyPieces(kRows, kRowBytes, stage, [&](int row) {
        const int64_t i = first_row_ + row < args_.rows ? first_row_ + row : args_.rows - 1;
        return static_cast<const char*>(args_.x) + (i * num_blocks_ + block) * kRowBytes;
      });
      CopyPieces(kGroups, Block::kValueBytes, stage + kXBytes, [&](int group) {
        return static_cast<const char*>(args_.w.values) + At(group, block) * Block::kValueBytes;
      });
      CopyPieces(kGroups,
                 Block::kScaleBytes,
                 stage + kXBytes + kGroups * Block::kValueBytes,
                 [&](int group) {
                   return reinterpret_cast<const char*>(args_.w.scales) +
                          At(group, block) * Block::kScaleBytes;
                 });
    }
    device::CommitCopies();
  }

  // What a lane has of rows [8 tile, 8 tile + 8) of x.
  __device__ Words4 Input(int block, int tile, int lane) const {
    return reinterpret_cast<const Words4*>(Stage(block))[tile * 32 + lane];
  }
  __device__ Block Weights(int block, int group, int lane) const {
    const char* const values = Stage(block) + kXBytes;
    Block weights;
    weights.Load(values + group * Block::kValueBytes,
                 values + kGroups * Block::kValueBytes + group * Block::kScaleBytes,
                 lane);
    return weights;
  }

 private:
  __device__ char* Stage(int block) const {
    return device::SharedMemory() + kTotalBytes + block % kStages * kStageBytes<Block>;
  }
  __device__ int64_t At(int group, int block) const {
    const int64_t i = first_group_ + group < num_groups_ ? first_group_ + group : num_groups_ - 1;
    return i * num_blocks_ + block;
  }
  // `count` runs of `bytes`, one after the other in shared memory; run i from where from(i) says.
  template <typename From>
  __device__ static void CopyPieces(int count, int bytes, char* to, From from) {
    const int pieces = bytes / kPieceBytes;
    for (int i = device::ThreadPosition().x; i < count * pieces; i += kThreads) {
      device::CopyAsync16(to + i * kPieceBytes, from(i / pieces) + i % pieces * kPieceBytes);
    }
  }

  const DeviceMatmulArgs& args_;
  const int num_blocks_;
  const int64_t num_groups_;
  const int64_t first_group_;
  const int64_t first_row_;
};

template <typename T, typename Block>
__global__ void TiledMatmulKernel(DeviceMatmulArgs args) {
  const Tile<Block> tile(args);
  const int thread = device::ThreadPosition().x;
  const int lane = thread % 32;
  const int first_group = thread / 32 % kWarpsByGroups * kWarpGroups;
  const int first_tile = thread / 32 / kWarpsByGroups * kWarpTiles;
  float* const totals = reinterpret_cast<float*>(device::SharedMemory()) + thread;
  float sums[kWarpGroups][kWarpTiles][4] = {};
  for (int i = 0; i < kSums; ++i) totals[i * kThreads] = 0;
  for (int stage = 0; stage < kStages - 1; ++stage) tile.Copy(stage);

  const int blocks_of_part = BlocksOfPart(tile.num_blocks());
  int left_of_part = blocks_of_part;
  for (int block = 0; block < tile.num_blocks(); ++block) {
    device::WaitForCopies<kStages - 2>();
    device::SyncThreads();
    tile.Copy(block + kStages - 1);  // where the block before this one was
    Words4 x[kWarpTiles];
    float inputs[kWarpTiles][4];
#pragma unroll
    for (int t = 0; t < kWarpTiles; ++t) {
      x[t] = tile.Input(block, first_tile + t, lane);
      if constexpr (Block::kHasMinimum) SumInputs<T>(x[t], inputs[t]);
    }
#pragma unroll
    for (int g = 0; g < kWarpGroups; ++g) {
      const Block weights = tile.Weights(block, first_group + g, lane);
      uint32_t a[2][4];
      weights.Fragment(0, a[0]);
      weights.Fragment(1, a[1]);
#pragma unroll
      for (int t = 0; t < kWarpTiles; ++t) AddBlock<T>(weights, a, x[t], inputs[t], sums[g][t]);
    }
    if (--left_of_part > 0 && block + 1 < tile.num_blocks()) continue;
    left_of_part = blocks_of_part;
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      float& sum = sums[i / (4 * kWarpTiles)][i / 4 % kWarpTiles][i % 4];
      totals[i * kThreads] += sum;
      sum = 0;
    }
  }

  for (int i = 0; i < kSums; ++i) {
    const int64_t group = tile.first_group() + first_group + i / (4 * kWarpTiles);
    const int64_t row =
        tile.first_row() + (first_tile + i / 4 % kWarpTiles) * kTileRows + lane % 4 * 2 + i % 2;
    const int64_t n = group * kGroupRows + lane / 4 + i % 4 / 2 * 8;
    if (row < args.rows && n < args.w.n) StoreOutput<T>(args, row, n, totals[i * kThreads]);
  }
}

}  // namespace

absl::Status RunTiledMatmul(device::Stream stream, const DeviceMatmulArgs& args) {
  constexpr int kTileN = kGroups * kGroupRows;
  return ForTypes(args, [&]<typename T, typename Block>() {
    return device::Launch(stream,
                          {(args.w.n + kTileN - 1) / kTileN, (args.rows + kRows - 1) / kRows},
                          {kThreads},
                          kTotalBytes + kStages * kStageBytes<Block>,
                          TiledMatmulKernel<T, Block>,
                          args);
  });
}

}  // namespace paceline::kernels
