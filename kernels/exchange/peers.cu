// A block takes a part of a row, or, where a norm follows, whole rows: 16 bytes (or 2, or 4) a
// thread at a time. Bound by the way to the peers and back: 16 KB a row is little for their link.
#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "kernels/device/block.cuh"
#include "kernels/device/element.cuh"
#include "kernels/exchange/peers_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
static_assert(kMaxPeers <= kThreads);
constexpr int64_t kUnitBytes = 16;
// Of the widest rank's row for one block: two units a thread.
constexpr int64_t kPartBytes = 2 * kThreads * kUnitBytes;

struct alignas(kUnitBytes) Unit {
  uint32_t words[4];
};

// What part of each row is whose. Blocks of all ranks agree on it, whatever they are aligned to.
struct Parts {
  int64_t rows;
  int32_t per_row;
};

struct Range {
  int64_t begin;
  int64_t end;
};

// Bytes of part `part` of a row of `width` bytes; all but the last end at a whole unit.
__device__ __forceinline__ Range PartOf(int64_t width, int32_t part, int32_t per_row) {
  const auto cut = [&](int32_t i) {
    return i == per_row ? width : width * i / per_row / kUnitBytes * kUnitBytes;
  };
  return {cut(part), cut(part + 1)};
}

// Calls part(row, index) for all of this block's.
template <typename F>
__device__ __forceinline__ void ForEachPart(const Parts& parts, F part) {
  for (int64_t i = device::BlockPosition().x; i < parts.rows * parts.per_row;
       i += device::GridSize().x) {
    part(i / parts.per_row, static_cast<int32_t>(i % parts.per_row));
  }
}

// Calls element(i) for the elements of type T in a range of bytes, a thread each.
template <typename T, typename F>
__device__ __forceinline__ void ForEachElement(const Range& range, F element) {
  constexpr int64_t kBytes = sizeof(T);
  for (int64_t i = range.begin / kBytes + device::ThreadPosition().x; i < range.end / kBytes;
       i += kThreads) {
    element(i);
  }
}

// What `from` sent to `to` in exchange number `count`.
__device__ __forceinline__ char* Piece(const DevicePeers& peers,
                                       int32_t to,
                                       int32_t from,
                                       uint64_t count) {
  const auto turn = static_cast<int64_t>(count & 1);
  return peers.inbox[to] + (turn * peers.num_ranks + from) * peers.piece_bytes;
}

// After all threads have sent their parts: until the peers' blocks of this number have.
__device__ __forceinline__ void Meet(const DevicePeers& peers, uint64_t count) {
  device::SyncThreads();
  const int block = device::BlockPosition().x;
  const int peer = device::ThreadPosition().x;
  if (peer < peers.num_ranks && peer != peers.rank) {
    device::StoreRelease(&peers.arrived[peer][peers.rank * kMaxPeerBlocks + block], count);
    device::AwaitAtLeast(
        &peers.arrived[peers.rank][peer * kMaxPeerBlocks + block], count, peers.stop);
  }
  device::SyncThreads();
}

// The last block counts the exchange, for the next launch.
__device__ __forceinline__ void Leave(const DevicePeers& peers, uint64_t count) {
  if (device::ThreadPosition().x != 0) return;
  const auto blocks = static_cast<uint32_t>(device::GridSize().x);
  if (device::AtomicAdd(peers.blocks_done, uint32_t{1}) + 1 < blocks) return;
  *peers.blocks_done = 0;
  *peers.count = count;
}

// In the order of DeviceRmsNorm's additions.
template <typename T>
__device__ __forceinline__ void NormRow(const float* x,
                                        int64_t cols,
                                        const DevicePeerNorm& norm,
                                        uint16_t* out) {
  float squares = 0;
  for (int64_t i = device::ThreadPosition().x; i < cols; i += kThreads) squares += x[i] * x[i];
  squares = device::BlockSum<kWarps>(squares, reinterpret_cast<float*>(device::SharedMemory()));
  const float scale = device::InverseSqrt(squares / static_cast<float>(cols) + norm.eps);
  for (int64_t i = device::ThreadPosition().x; i < cols; i += kThreads) {
    out[i] = T::FromFloat(x[i] * scale * norm.weight[i]);
  }
}

// REQUIRES: this block has written the whole row.
__device__ __forceinline__ void NormAfter(const float* x,
                                          int64_t row,
                                          int64_t cols,
                                          const DevicePeerNorm& norm) {
  if (norm.weight == nullptr) return;
  device::SyncThreads();
  auto* const out = static_cast<uint16_t*>(norm.out) + row * cols;
  if (norm.dtype == DType::kBF16) {
    NormRow<device::Bf16>(x + row * cols, cols, norm, out);
  } else {
    NormRow<device::F16>(x + row * cols, cols, norm, out);
  }
}

template <typename T>
__global__ void PeerGatherKernel(DevicePeerGatherArgs args, Parts parts) {
  const DevicePeers& peers = args.peers;
  const uint64_t count = *peers.count + 1;
  const auto begin = [&](int rank) { return rank == 0 ? 0 : args.end_bytes[rank - 1]; };
  const auto width = [&](int rank) { return args.end_bytes[rank] - begin(rank); };
  const int64_t own_width = width(peers.rank);
  const auto* const own = static_cast<const char*>(args.own);
  ForEachPart(parts, [&](int64_t row, int32_t part) {
    const auto* const from = reinterpret_cast<const T*>(own + row * args.own_pitch);
    for (int peer = 0; peer < peers.num_ranks; ++peer) {
      if (peer == peers.rank) continue;
      T* const to = reinterpret_cast<T*>(Piece(peers, peer, peers.rank, count) + row * own_width);
      ForEachElement<T>(PartOf(own_width, part, parts.per_row),
                        [&](int64_t i) { to[i] = from[i]; });
    }
  });
  Meet(peers, count);
  const int64_t pitch = args.end_bytes[peers.num_ranks - 1];
  auto* const all = static_cast<char*>(args.all);
  const bool is_in_place = own == all + begin(peers.rank);
  ForEachPart(parts, [&](int64_t row, int32_t part) {
    for (int rank = 0; rank < peers.num_ranks; ++rank) {
      if (rank == peers.rank && is_in_place) continue;
      const char* const piece = rank == peers.rank
                                    ? own + row * args.own_pitch
                                    : Piece(peers, peers.rank, rank, count) + row * width(rank);
      const auto* const from = reinterpret_cast<const T*>(piece);
      T* const to = reinterpret_cast<T*>(all + row * pitch + begin(rank));
      ForEachElement<T>(PartOf(width(rank), part, parts.per_row),
                        [&](int64_t i) { to[i] = from[i]; });
    }
    NormAfter(static_cast<const float*>(args.all), row, pitch / int64_t{sizeof(float)}, args.norm);
  });
  Leave(peers, count);
}

template <typename T>
__global__ void PeerSumKernel(
    DevicePeers peers, T* x, int64_t cols, Parts parts, DevicePeerNorm norm) {
  constexpr int64_t kBytes = sizeof(T);
  const uint64_t count = *peers.count + 1;
  ForEachPart(parts, [&](int64_t row, int32_t part) {
    const T* const from = x + row * cols;
    for (int peer = 0; peer < peers.num_ranks; ++peer) {
      if (peer == peers.rank) continue;
      T* const to = reinterpret_cast<T*>(Piece(peers, peer, peers.rank, count)) + row * cols;
      ForEachElement<T>(PartOf(cols * kBytes, part, parts.per_row),
                        [&](int64_t i) { to[i] = from[i]; });
    }
  });
  Meet(peers, count);
  ForEachPart(parts, [&](int64_t row, int32_t part) {
    T* const own = x + row * cols;
    ForEachElement<T>(PartOf(cols * kBytes, part, parts.per_row), [&](int64_t i) {
      T sum = 0;
      for (int rank = 0; rank < peers.num_ranks; ++rank) {
        const char* const piece = Piece(peers, peers.rank, rank, count);
        const T value =
            rank == peers.rank ? own[i] : reinterpret_cast<const T*>(piece)[row * cols + i];
        sum = rank == 0 ? value : sum + value;
      }
      own[i] = sum;
    });
    NormAfter(reinterpret_cast<const float*>(x), row, cols, norm);
  });
  Leave(peers, count);
}

bool IsGroup(const DevicePeers& peers) {
  return peers.num_ranks >= 1 && peers.num_ranks <= kMaxPeers && peers.rank >= 0 &&
         peers.rank < peers.num_ranks && peers.piece_bytes % kUnitBytes == 0;
}

bool IsNorm(const DevicePeerNorm& norm) {
  return norm.weight == nullptr || norm.dtype == DType::kBF16 || norm.dtype == DType::kF16;
}

absl::Status Invalid(const char* op, const DevicePeers& peers, int64_t rows, int64_t cols) {
  return absl::InvalidArgumentError(absl::StrCat(op,
                                                 ": [",
                                                 rows,
                                                 ", ",
                                                 cols,
                                                 "] for pieces of ",
                                                 peers.piece_bytes,
                                                 " bytes, rank ",
                                                 peers.rank,
                                                 " of ",
                                                 peers.num_ranks));
}

Parts Divide(int64_t rows, int64_t widest_bytes, const DevicePeerNorm& norm) {
  const int64_t most = std::max<int64_t>(1, kMaxPeerBlocks / rows);
  const int64_t wanted = (widest_bytes + kPartBytes - 1) / kPartBytes;
  const int64_t per_row = norm.weight == nullptr ? std::clamp<int64_t>(wanted, 1, most) : 1;
  return {rows, static_cast<int32_t>(per_row)};
}

int32_t Blocks(const Parts& parts) {
  return static_cast<int32_t>(std::min<int64_t>(parts.rows * parts.per_row, kMaxPeerBlocks));
}

bool IsWhole(const DevicePeerGatherArgs& args, int64_t unit) {
  for (int rank = 0; rank < args.peers.num_ranks; ++rank) {
    if (args.end_bytes[rank] % unit != 0) return false;
  }
  const auto is_aligned = [unit](const void* at) {
    return reinterpret_cast<uintptr_t>(at) % static_cast<uintptr_t>(unit) == 0;
  };
  return args.own_pitch % unit == 0 && is_aligned(args.own) && is_aligned(args.all);
}

template <typename T>
absl::Status Sum(device::Stream stream,
                 const DevicePeers& peers,
                 T* x,
                 int64_t rows,
                 int64_t cols,
                 const DevicePeerNorm& norm) {
  constexpr int64_t kBytes = sizeof(T);
  if (!IsGroup(peers) || !IsNorm(norm) || rows <= 0 || cols <= 0 ||
      rows * cols * kBytes > peers.piece_bytes) {
    return Invalid("DevicePeerSum", peers, rows, cols);
  }
  const Parts parts = Divide(rows, cols * kBytes, norm);
  return device::Launch(stream,
                        {Blocks(parts)},
                        {kThreads},
                        kWarps * sizeof(float),
                        PeerSumKernel<T>,
                        peers,
                        x,
                        cols,
                        parts,
                        norm);
}

}  // namespace

absl::Status DevicePeerGather(device::Stream stream, const DevicePeerGatherArgs& args) {
  const DevicePeers& peers = args.peers;
  if (!IsGroup(peers) || !IsNorm(args.norm) || args.rows <= 0 || !IsWhole(args, 2)) {
    return Invalid("DevicePeerGather", peers, args.rows, 0);
  }
  int64_t widest = 0;
  int64_t before = 0;
  for (int rank = 0; rank < peers.num_ranks; ++rank) {
    if (args.end_bytes[rank] < before) return Invalid("DevicePeerGather", peers, args.rows, 0);
    widest = std::max(widest, args.end_bytes[rank] - before);
    before = args.end_bytes[rank];
  }
  if (before == 0) return absl::OkStatus();
  if (args.rows * widest > peers.piece_bytes) {
    return Invalid("DevicePeerGather", peers, args.rows, widest);
  }
  const Parts parts = Divide(args.rows, widest, args.norm);
  return device::Launch(
      stream,
      {Blocks(parts)},
      {kThreads},
      kWarps * sizeof(float),
      IsWhole(args, kUnitBytes) ? PeerGatherKernel<Unit> : PeerGatherKernel<uint16_t>,
      args,
      parts);
}

absl::Status DevicePeerSum(device::Stream stream, const DevicePeerSumArgs& args) {
  return Sum(stream, args.peers, args.x, args.rows, args.cols, args.norm);
}

absl::Status DevicePeerSum(device::Stream stream,
                           const DevicePeers& peers,
                           int32_t* x,
                           int64_t count) {
  return Sum(stream, peers, reinterpret_cast<uint32_t*>(x), 1, count, {});
}

}  // namespace paceline::kernels
