// A thread block moves 16 KB of one block of one layer. Lists go with the launch. Bound by memory.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "device_backend.cuh"
#include "kernels/kv_cache/kv_blocks_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPiecesPerThread = 4;
constexpr int kMaxItems = 256;  // of a launch, whose arguments are 4 KB at most

struct alignas(16) Piece {
  uint32_t words[4];
};
constexpr int kTilePieces = kThreads * kPiecesPerThread;

template <typename Item>
struct Items {
  Item item[kMaxItems];
};

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

__global__ void CopyKernel(DeviceKvBlocks blocks, Items<BlockCopy> copies) {
  const BlockCopy copy = copies.item[device::BlockPosition().x];
  const Piece* const from = PiecesOf(blocks, copy.from);
  Piece* const to = PiecesOf(blocks, copy.to);
  ForEachPiece(blocks, [&](int64_t i) { to[i] = from[i]; });
}

__global__ void ZeroKernel(DeviceKvBlocks blocks, Items<int32_t> ids) {
  Piece* const to = PiecesOf(blocks, ids.item[device::BlockPosition().x]);
  ForEachPiece(blocks, [&](int64_t i) { to[i] = Piece{}; });
}

template <typename Item>
absl::Status Run(device::Stream stream,
                 const char* op,
                 const DeviceKvBlocks& blocks,
                 absl::Span<const Item> all,
                 void (*kernel)(DeviceKvBlocks, Items<Item>)) {
  if (blocks.num_layers <= 0 || blocks.num_layers > 65535 || blocks.block_bytes <= 0 ||
      blocks.block_bytes % 16 != 0 || blocks.layer_bytes % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(op,
                                                   ": blocks of ",
                                                   blocks.num_layers,
                                                   " layers of ",
                                                   blocks.block_bytes,
                                                   " bytes, a layer of ",
                                                   blocks.layer_bytes,
                                                   ": bytes come in sixteens"));
  }
  constexpr int64_t kTileBytes = kTilePieces * sizeof(Piece);
  const auto tiles = static_cast<int32_t>((blocks.block_bytes + kTileBytes - 1) / kTileBytes);
  for (size_t first = 0; first < all.size(); first += kMaxItems) {
    const auto some = all.subspan(first, kMaxItems);
    Items<Item> items{};
    std::copy(some.begin(), some.end(), items.item);
    const absl::Status status =
        device::Launch(stream,
                       {static_cast<int32_t>(some.size()), blocks.num_layers, tiles},
                       {kThreads},
                       0,
                       kernel,
                       blocks,
                       items);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DeviceCopyBlocks(device::Stream stream,
                              const DeviceKvBlocks& blocks,
                              absl::Span<const BlockCopy> copies) {
  return Run(stream, "DeviceCopyBlocks", blocks, copies, CopyKernel);
}

absl::Status DeviceZeroBlocks(device::Stream stream,
                              const DeviceKvBlocks& blocks,
                              absl::Span<const int32_t> ids) {
  return Run(stream, "DeviceZeroBlocks", blocks, ids, ZeroKernel);
}

}  // namespace paceline::kernels
