// A thread a unit of 16 bytes (or 2), or a float. Bound by memory.
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "device_backend.cuh"
#include "kernels/exchange/pieces_device.h"

namespace paceline::kernels {
namespace {

constexpr int kThreads = 256;

struct alignas(16) Unit {
  uint32_t words[4];
};

__device__ __forceinline__ int64_t Element() {
  return int64_t{device::BlockPosition().x} * kThreads + device::ThreadPosition().x;
}

template <typename T>
__global__ void PlaceColumnsKernel(DevicePlaceColumnsArgs args) {
  constexpr int64_t kBytes = sizeof(T);
  const int64_t width = args.end_bytes[args.num_ranks - 1] / kBytes;
  if (Element() >= args.rows * width) return;
  const int64_t row = Element() / width;
  const int64_t column = Element() % width;
  int rank = 0;
  while (args.end_bytes[rank] / kBytes <= column) ++rank;
  const int64_t begin = rank == 0 ? 0 : args.end_bytes[rank - 1] / kBytes;
  const int64_t share = args.end_bytes[rank] / kBytes - begin;
  const T* const piece =
      reinterpret_cast<const T*>(static_cast<const char*>(args.pieces) + rank * args.piece_bytes);
  static_cast<T*>(args.all)[Element()] = piece[row * share + column - begin];
}

__global__ void SumPiecesKernel(const float* pieces, int32_t num_ranks, int64_t count, float* out) {
  const int64_t i = Element();
  if (i >= count) return;
  float sum = pieces[i];
  for (int32_t rank = 1; rank < num_ranks; ++rank) sum += pieces[rank * count + i];
  out[i] = sum;
}

int32_t Blocks(int64_t elements) {
  return static_cast<int32_t>((elements + kThreads - 1) / kThreads);
}

bool IsWhole(const DevicePlaceColumnsArgs& args, int64_t unit) {
  int64_t before = 0;
  for (int32_t rank = 0; rank < args.num_ranks; ++rank) {
    const int64_t end = args.end_bytes[rank];
    if (end < before || end % unit != 0) return false;
    if ((end - before) * args.rows > args.piece_bytes) return false;
    before = end;
  }
  const auto is_aligned = [unit](const void* at) {
    return reinterpret_cast<uintptr_t>(at) % static_cast<uintptr_t>(unit) == 0;
  };
  return args.piece_bytes % unit == 0 && is_aligned(args.pieces) && is_aligned(args.all);
}

}  // namespace

absl::Status DevicePlaceColumns(device::Stream stream, const DevicePlaceColumnsArgs& args) {
  const bool has_size = args.rows > 0 && args.num_ranks > 0 && args.num_ranks <= kMaxPieces;
  if (!has_size || !IsWhole(args, 2)) {
    return absl::InvalidArgumentError(absl::StrCat("DevicePlaceColumns: ",
                                                   args.rows,
                                                   " rows of ",
                                                   args.num_ranks,
                                                   " ranks in pieces of ",
                                                   args.piece_bytes,
                                                   " bytes"));
  }
  const int64_t bytes = args.rows * args.end_bytes[args.num_ranks - 1];
  if (bytes == 0) return absl::OkStatus();
  if (IsWhole(args, sizeof(Unit))) {
    return device::Launch(stream,
                          {Blocks(bytes / int64_t{sizeof(Unit)})},
                          {kThreads},
                          0,
                          PlaceColumnsKernel<Unit>,
                          args);
  }
  return device::Launch(
      stream, {Blocks(bytes / 2)}, {kThreads}, 0, PlaceColumnsKernel<uint16_t>, args);
}

absl::Status DeviceSumPieces(
    device::Stream stream, const float* pieces, int32_t num_ranks, int64_t count, float* out) {
  if (num_ranks <= 0 || count <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("DeviceSumPieces: ", count, " floats of ", num_ranks, " ranks"));
  }
  return device::Launch(
      stream, {Blocks(count)}, {kThreads}, 0, SumPiecesKernel, pieces, num_ranks, count, out);
}

}  // namespace paceline::kernels
