// The right operand of a warp group's products in shared memory, and how it gets there.
//
// It is made of blocks: rows of 64 elements, 128 bytes, eight of which are 1,024 bytes from a
// multiple of that. Within them the 16-byte pieces of a row are swizzled, so that neither a row nor
// a column of pieces meets in the same banks.
#ifndef PACELINE_KERNELS_DEVICE_WARP_GROUP_CUH_
#define PACELINE_KERNELS_DEVICE_WARP_GROUP_CUH_

#include "device_warp_group.cuh"

namespace paceline::kernels::device {

constexpr int kGroupThreads = 128;
constexpr int kBlockRowBytes = 128;

// Where a row's 16-byte piece, 0 to 7, lies in a block.
__device__ __forceinline__ constexpr int SwizzledOffset(int row, int piece) {
  return row * kBlockRowBytes + (piece ^ row % 8) * 16;
}

// Of an operand that begins at `address`, not swizzled: at a block's first row or one a multiple of
// eight after it, and a multiple of 32 bytes into it. `leading_bytes`: from a block to the next one
// of the same rows, for operands that are kTransposed.
__device__ __forceinline__ uint64_t MatrixDescriptor(const void* address, int leading_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = 8 * kBlockRowBytes;
  const auto encode = [](uint64_t bytes) { return (bytes & 0x3ffff) >> 4; };
  return kSwizzle128 | encode(kEightRows) << 32 |
         encode(static_cast<uint64_t>(leading_bytes)) << 16 | encode(SharedAddress(address));
}

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_WARP_GROUP_CUH_
