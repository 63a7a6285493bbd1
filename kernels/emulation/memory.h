// Device memory of the emulation: every allocation ends at a page that may not be touched, so a
// kernel that reads or writes past its end dies there. Fresh memory is 0xff bytes, NaN in every
// float type. Any thread.
#ifndef PACELINE_KERNELS_EMULATION_MEMORY_H_
#define PACELINE_KERNELS_EMULATION_MEMORY_H_

#include <cstdint>

namespace paceline::kernels::emulation {

// `bytes` at an address that is a multiple of 16, or of 4 when bytes is not a multiple of 16.
// Dies when there is no memory. Freed by Free with the same size.
void* Allocate(int64_t bytes);
void Free(void* memory, int64_t bytes);

// The same of memory that other processes can map, as long as `fd` is open somewhere. MapShared's
// is what `fd` has; null: there is none.
void* AllocateShared(int64_t bytes, int& fd);
void* MapShared(int fd, int64_t bytes);

}  // namespace paceline::kernels::emulation

#endif  // PACELINE_KERNELS_EMULATION_MEMORY_H_
