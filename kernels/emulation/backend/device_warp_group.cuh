// What a warp group may ask of a Hopper, on the CPU: the same names as
// kernels/device/native/device_warp_group.cuh.
#ifndef PACELINE_KERNELS_DEVICE_WARP_GROUP_BACKEND_CUH_
#define PACELINE_KERNELS_DEVICE_WARP_GROUP_BACKEND_CUH_

#include "kernels/device/element.cuh"
#include "kernels/emulation/warp_group.h"

namespace paceline::kernels::device {

inline bool HasWarpGroups() { return true; }

inline void FenceSharedForProducts() { emulation::FenceSharedForProducts(); }

template <typename... Registers>
void KeepInPlace(Registers&...) {}

inline void FenceGroupMmas(const Location& at = Location::current()) {
  emulation::FenceProducts(at);
}
inline void CommitGroupMmas(const Location& at = Location::current()) {
  emulation::CommitProducts(at);
}

template <int kLeft>
void WaitForGroupMmas(const Location& at = Location::current()) {
  emulation::WaitForProducts(kLeft, at);
}

template <typename T, bool kTransposed, int kTiles>
void GroupMma(float (&sums)[kTiles][4],
              const uint32_t (&a)[4],
              uint64_t b,
              bool accumulate,
              const Location& at = Location::current()) {
  static_assert(kTiles == 8 || kTiles == 10 || kTiles == 12 || kTiles == 16);
  emulation::StartProduct({kTiles, kTransposed, accumulate, T::ToFloat, b, a, &sums[0][0]}, at);
}

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_WARP_GROUP_BACKEND_CUH_
