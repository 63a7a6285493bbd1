// A small model of the CUDA thread hierarchy on one CPU thread: what runs a kernel that was
// compiled for the CPU, and finds what a GPU would hide. Blocks run one after the other; the
// threads of a block are fibres that run in an order drawn from a seed and change only where they
// meet. A block that can only wait for another launch, or for the host, lets others run.
//
// An error ends the launch and says what, in which block and thread, and in which line of the
// kernel:
//   - threads of a warp, or of a warp group, that meet in different operations or lines, or with
//     some of them gone;
//   - threads of a block that wait for each other at different barriers, or for ever;
//   - a copy whose addresses are not aligned.
// Shared memory starts as 0xff bytes (NaN in every float type), and so does what an asynchronous
// copy will overwrite until its thread has waited for it: who reads too early sees NaN, and who
// forgets a barrier gets an answer that depends on the seed.
//
// One launch at a time per process, others wait but for those that wait themselves; any thread.
#ifndef PACELINE_KERNELS_EMULATION_GRID_H_
#define PACELINE_KERNELS_EMULATION_GRID_H_

#include <cstdint>
#include <memory>
#include <source_location>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace paceline::kernels::emulation {

struct Index3 {
  int32_t x = 1;
  int32_t y = 1;
  int32_t z = 1;
};

// Seed of the order in which threads run from the next launch on.
void SetSeed(uint64_t seed);

// Runs body() once for every thread of the grid. Internal when the kernel does what a GPU would not
// forgive; the rest of the grid is then not run. REQUIRES: block.x * block.y * block.z is a
// multiple of 32 and at most 1024.
absl::Status Launch(Index3 grid,
                    Index3 block,
                    int64_t shared_bytes,
                    absl::FunctionRef<void()> body);

// ---- For the running thread of a kernel

Index3 GridSize();
Index3 BlockSize();
Index3 BlockPosition();
Index3 ThreadPosition();
char* SharedMemory();

using Location = std::source_location;

// Waits for every thread of the block that has not returned.
void SyncBlock(const Location& location);

// Meets the 31 other lanes in the same operation: `mine` points to this lane's operand, and the
// last one to come calls meet(lanes), lanes[i] being lane i's `mine`, before all go on. `operation`
// must be the same text in all.
using Lanes = void* const[32];
void MeetWarp(const char* operation,
              const Location& location,
              void* mine,
              absl::FunctionRef<void(Lanes lanes)> meet);

// Returns when is_there(), which asks memory that other launches or the host write.
void AwaitOutside(absl::FunctionRef<bool()> is_there, const Location& location);

// The same for the 128 threads of a warp group: four warps from a multiple of four.
constexpr int kGroupSize = 128;
struct GroupLanes {
  void* const* mine;
  int32_t first_thread;

  void* operator[](int i) const { return mine[i]; }
};
void MeetGroup(const char* operation,
               const Location& location,
               void* mine,
               absl::FunctionRef<void(const GroupLanes& lanes)> meet);

// Shared memory has addresses of its own, for instructions that take them. What products of a warp
// group see of it (PTX's async proxy) is what it was at the last fence; of what a copy brings, at
// the next fence of the copy's thread after its wait.
uint32_t SharedAddress(const void* shared);
bool IsShared(uint32_t address, int32_t bytes);
const char* AtAddress(uint32_t address);
const char* AtAddressForProducts(uint32_t address);
void FenceSharedForProducts();

// What another file keeps for the running block; made when it is first asked for.
std::shared_ptr<void>& BlockStatePointer();
template <typename T>
T& BlockState() {
  std::shared_ptr<void>& state = BlockStatePointer();
  if (state == nullptr) state = std::make_shared<T>();
  return *static_cast<T*>(state.get());
}

// An asynchronous copy of `bytes` (4, 8 or 16) to shared memory, in the group being collected.
void CopyAsync(void* to, const void* from, int32_t bytes, const Location& location);
void CommitCopies();
// All groups but the `left` latest are there, for this thread.
void WaitForCopies(int32_t left);

// Ends the launch with this error unless `ok`.
void Check(bool ok, const char* what, const Location& location);

}  // namespace paceline::kernels::emulation

#endif  // PACELINE_KERNELS_EMULATION_GRID_H_
