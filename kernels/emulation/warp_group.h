// Products of a warp group in the emulation. What they catch beside what grid.h says:
//   - sums that are used before the wait: they are NaN until then, and writing to them is an error;
//   - operands that change before the wait, in registers or shared memory: an error;
//   - a wrong descriptor or swizzle: the operand is read through it, from where it says;
//   - a missing fence before the products: an error; a missing fence of the shared memory: products
//     see NaN, or what was there before. For what ordinary stores wrote any thread's fence will do;
//     for what a copy brought only that of its thread.
// For the running thread of a kernel.
#ifndef PACELINE_KERNELS_EMULATION_WARP_GROUP_H_
#define PACELINE_KERNELS_EMULATION_WARP_GROUP_H_

#include <cstdint>

#include "kernels/emulation/grid.h"

namespace paceline::kernels::emulation {

struct GroupProduct {
  int32_t tiles;  // of 8 columns
  bool transposed;
  bool accumulate;
  float (*to_float)(uint16_t);
  uint64_t b;         // PTX's matrix descriptor; only swizzles of 128 bytes are modelled
  const uint32_t* a;  // [4]
  float* sums;        // [tiles][4]
};

// All 128 threads of the group, with the same `b`.
void StartProduct(const GroupProduct& product, const Location& location);
void FenceProducts(const Location& location);
void CommitProducts(const Location& location);
void WaitForProducts(int32_t left, const Location& location);

}  // namespace paceline::kernels::emulation

#endif  // PACELINE_KERNELS_EMULATION_WARP_GROUP_H_
