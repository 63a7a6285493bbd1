// What a rank does with the pieces that an all-gather over its tensor group brings, one a rank.
// Stateless; enqueues on the stream; pointers are of device memory. InvalidArgument: sizes that do
// not fit; Internal: a launch failed.
#ifndef PACELINE_KERNELS_EXCHANGE_PIECES_DEVICE_H_
#define PACELINE_KERNELS_EXCHANGE_PIECES_DEVICE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/stream.h"

namespace paceline::kernels {

constexpr int32_t kMaxPieces = 64;

// Rank r's columns [end_bytes[r - 1], end_bytes[r]) of every row, from a piece that has them row
// after row, side by side. Sizes in bytes, all even; whole 16 bytes are faster.
struct DevicePlaceColumnsArgs {
  const void* pieces;             // [num_ranks, piece_bytes]
  int64_t piece_bytes;            // at least rows times the widest rank's columns
  void* all;                      // [rows, end_bytes[num_ranks - 1]]
  int64_t rows;                   //
  int32_t num_ranks;              // at most kMaxPieces
  int64_t end_bytes[kMaxPieces];  // ascending
};
absl::Status DevicePlaceColumns(device::Stream stream, const DevicePlaceColumnsArgs& args);

// out[i] = ((pieces[0][i] + pieces[1][i]) + pieces[2][i]) + …, so all ranks get the same bits.
absl::Status DeviceSumPieces(device::Stream stream,
                             const float* pieces,  // [num_ranks, count]
                             int32_t num_ranks,
                             int64_t count,
                             float* out);  // [count]

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_EXCHANGE_PIECES_DEVICE_H_
