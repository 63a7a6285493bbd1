// A thread block moves 16 KB of one block of one layer. Bound by memory.
#include "absl/strings/str_cat.h"
#include "device_backend.cuh"
#include "kernels/kv_cache/kv_blocks_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPiecesPerThread = 4;

struct alignas(16) Piece {
  uint32_t words[4];
};
constexpr int kTilePieces = kThreads * kPiecesPerThread;

// Calls visit(i) for the pieces of a block that this thread has.
template <typename Visit>
__device__ __forceinline__ void ForEachPiece(const DeviceKvBlocks& blocks, Visit visit) {
  const int64_t num_pieces = blocks.block_bytes / static_cast<int64_t>(sizeof(Piece));
  const int64_t first =
      int64_t{device::BlockPosition().z} * kTilePieces + device::ThreadPosition().x;
  for (int i = 0; i < kPiecesPerThread; ++i) {
    if (first + i * kThreads < num_pieces) visit(first + i * kThreads);
  }
}

__device__ __forceinline__ Piece* PiecesOf(const DeviceKvBlocks& blocks, int32_t block) {
  return reinterpret_cast<Piece*>(static_cast<char*>(blocks.base) +
                                  device::BlockPosition().y * blocks.layer_bytes +
                                  block * blocks.block_bytes);
}

__global__ void CopyKernel(DeviceKvBlocks blocks, const BlockCopy* copies) {
  const BlockCopy copy = copies[device::BlockPosition().x];
  const Piece* const from = PiecesOf(blocks, copy.from);
  Piece* const to = PiecesOf(blocks, copy.to);
  ForEachPiece(blocks, [&](int64_t i) { to[i] = from[i]; });
}

__global__ void ZeroKernel(DeviceKvBlocks blocks, const int32_t* ids) {
  Piece* const to = PiecesOf(blocks, ids[device::BlockPosition().x]);
  ForEachPiece(blocks, [&](int64_t i) { to[i] = Piece{}; });
}

template <typename Item>
absl::Status Run(device::Stream stream,
                 const char* op,
                 const DeviceKvBlocks& blocks,
                 const Item* items,
                 int32_t count,
                 void (*kernel)(DeviceKvBlocks, const Item*)) {
  if (count <= 0 || blocks.num_layers <= 0 || blocks.num_layers > 65535 ||
      blocks.block_bytes <= 0 || blocks.block_bytes % 16 != 0 || blocks.layer_bytes % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(op,
                                                   ": ",
                                                   count,
                                                   " blocks of ",
                                                   blocks.num_layers,
                                                   " layers of ",
                                                   blocks.block_bytes,
                                                   " bytes, a layer of ",
                                                   blocks.layer_bytes,
                                                   ": bytes come in sixteens"));
  }
  constexpr int64_t kTileBytes = kTilePieces * sizeof(Piece);
  const auto tiles = static_cast<int32_t>((blocks.block_bytes + kTileBytes - 1) / kTileBytes);
  return device::Launch(
      stream, {count, blocks.num_layers, tiles}, {kThreads}, 0, kernel, blocks, items);
}

}  // namespace

absl::Status DeviceCopyBlocks(device::Stream stream,
                              const DeviceKvBlocks& blocks,
                              const BlockCopy* copies,
                              int32_t num_copies) {
  return Run(stream, "DeviceCopyBlocks", blocks, copies, num_copies, CopyKernel);
}

absl::Status DeviceZeroBlocks(device::Stream stream,
                              const DeviceKvBlocks& blocks,
                              const int32_t* ids,
                              int32_t num_ids) {
  return Run(stream, "DeviceZeroBlocks", blocks, ids, num_ids, ZeroKernel);
}

}  // namespace paceline::kernels
