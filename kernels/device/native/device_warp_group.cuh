// What a warp group (four warps from a multiple of four, all threads of which take part) may ask of
// a Hopper: products whose right operand lies in shared memory. For files that are compiled for
// sm_90a alone (kernels/device/CMakeLists.txt). The CPU's version with the same names:
// kernels/emulation/backend/device_warp_group.cuh.
#ifndef PACELINE_KERNELS_DEVICE_WARP_GROUP_BACKEND_CUH_
#define PACELINE_KERNELS_DEVICE_WARP_GROUP_BACKEND_CUH_

#include <type_traits>

#include "kernels/device/element.cuh"

namespace paceline::kernels::device {

// Whether the thread's device has warp groups' products.
inline bool HasWarpGroups() {
  int device = 0;
  int major = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major == 9;
}

// What this thread has written to shared memory (and what its copies brought, once waited for) is
// seen by products that are started after the next barrier.
__device__ __forceinline__ void FenceSharedForProducts() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

namespace internal {

template <int kRows>
__device__ __forceinline__ void Keep(float (&registers)[kRows][4]) {
#pragma unroll
  for (int i = 0; i < 4 * kRows; ++i) asm volatile("" : "+f"(registers[i / 4][i % 4])::"memory");
}
template <int kRows>
__device__ __forceinline__ void Keep(uint32_t (&registers)[kRows][4]) {
#pragma unroll
  for (int i = 0; i < 4 * kRows; ++i) asm volatile("" : "+r"(registers[i / 4][i % 4])::"memory");
}

}  // namespace internal

// Keeps the compiler from moving uses of these registers past this place: what products take or
// give, before the fence and after the wait.
template <typename... Registers>
__device__ __forceinline__ void KeepInPlace(Registers&... registers) {
  (internal::Keep(registers), ...);
}

// Before the first GroupMma of several, after the last other use of what is in their registers.
__device__ __forceinline__ void FenceGroupMmas() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void CommitGroupMmas() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// All groups but the kLeft latest are done.
template <int kLeft>
__device__ __forceinline__ void WaitForGroupMmas() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kLeft) : "memory");
}

// One instruction; a macro because its text and its operands are lists of a length of their own for
// each shape.
#define PACELINE_WGMMA_OF(type, shape, sums_text, ab_text, add_text, transposed_text, ...)      \
  asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, " add_text                                 \
               ", 0;\nwgmma.mma_async.sync.aligned." shape ".f32." type "." type " {" sums_text \
               "}, " ab_text ", add, 1, 1, " transposed_text ";\n}"                             \
               : __VA_ARGS__                                                                    \
               : "r"(a[0]),                                                                     \
                 "r"(a[1]),                                                                     \
                 "r"(a[2]),                                                                     \
                 "r"(a[3]),                                                                     \
                 "l"(b),                                                                        \
                 "r"(static_cast<int>(accumulate)),                                             \
                 "n"(kTransposed ? 1 : 0)                                                       \
               : "memory")
#define PACELINE_WGMMA(...)                 \
  if constexpr (std::is_same_v<T, Bf16>) {  \
    PACELINE_WGMMA_OF("bf16", __VA_ARGS__); \
  } else {                                  \
    PACELINE_WGMMA_OF("f16", __VA_ARGS__);  \
  }
#define PACELINE_SUMS(n) "+f"(sums[n][0]), "+f"(sums[n][1]), "+f"(sums[n][2]), "+f"(sums[n][3])
#define PACELINE_SUMS_4(n) \
  PACELINE_SUMS(n), PACELINE_SUMS(n + 1), PACELINE_SUMS(n + 2), PACELINE_SUMS(n + 3)
#define PACELINE_REGISTERS_32                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
  ", "                                                                   \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PACELINE_REGISTERS_40 \
  PACELINE_REGISTERS_32       \
      ", "                    \
      "%32, %33, %34, %35, %36, %37, %38, %39"
#define PACELINE_REGISTERS_48 \
  PACELINE_REGISTERS_40       \
      ", "                    \
      "%40, %41, %42, %43, %44, %45, %46, %47"
#define PACELINE_REGISTERS_64 \
  PACELINE_REGISTERS_48       \
      ", "                    \
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// sums (+)= A B, A 64 x 16, B 16 x 8 kTiles of type T, done when it has been waited for; until then
// `sums` and `a` must stay as they are. Of A and of the sums warp w of the group has rows 16 w to
// 16 w + 15, laid out as mma.m16n8k16 has them. B is in shared memory where the descriptor says
// (warp_group.cuh): rows of 16 along K, or kTransposed: rows along the other side.
template <typename T, bool kTransposed, int kTiles>
__device__ __forceinline__ void GroupMma(float (&sums)[kTiles][4],
                                         const uint32_t (&a)[4],
                                         uint64_t b,
                                         bool accumulate) {
  static_assert(kTiles == 8 || kTiles == 10 || kTiles == 12 || kTiles == 16);
  if constexpr (kTiles == 8) {
    PACELINE_WGMMA("m64n64k16",
                   PACELINE_REGISTERS_32,
                   "{%32, %33, %34, %35}, %36",
                   "%37",
                   "%38",
                   PACELINE_SUMS_4(0),
                   PACELINE_SUMS_4(4))
  } else if constexpr (kTiles == 10) {
    PACELINE_WGMMA("m64n80k16",
                   PACELINE_REGISTERS_40,
                   "{%40, %41, %42, %43}, %44",
                   "%45",
                   "%46",
                   PACELINE_SUMS_4(0),
                   PACELINE_SUMS_4(4),
                   PACELINE_SUMS(8),
                   PACELINE_SUMS(9))
  } else if constexpr (kTiles == 12) {
    PACELINE_WGMMA("m64n96k16",
                   PACELINE_REGISTERS_48,
                   "{%48, %49, %50, %51}, %52",
                   "%53",
                   "%54",
                   PACELINE_SUMS_4(0),
                   PACELINE_SUMS_4(4),
                   PACELINE_SUMS_4(8))
  } else if constexpr (kTiles == 16) {
    PACELINE_WGMMA("m64n128k16",
                   PACELINE_REGISTERS_64,
                   "{%64, %65, %66, %67}, %68",
                   "%69",
                   "%70",
                   PACELINE_SUMS_4(0),
                   PACELINE_SUMS_4(4),
                   PACELINE_SUMS_4(8),
                   PACELINE_SUMS_4(12))
  }
}

#undef PACELINE_WGMMA
#undef PACELINE_WGMMA_OF
#undef PACELINE_SUMS
#undef PACELINE_SUMS_4
#undef PACELINE_REGISTERS_32
#undef PACELINE_REGISTERS_40
#undef PACELINE_REGISTERS_48
#undef PACELINE_REGISTERS_64

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_WARP_GROUP_BACKEND_CUH_
