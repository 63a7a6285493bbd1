// The emulation's memory on a GPU: the tests of tests/kernels/emulation read and write device
// memory as if it were the host's, so here it is memory that both reach. Launches must be waited
// for: CUDA_LAUNCH_BLOCKING=1 (run.sh).
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/emulation/memory.h"

namespace paceline::kernels::emulation {

void SetSeed(uint64_t) {}

void* Allocate(int64_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMallocManaged(&memory, bytes > 0 ? bytes : 1);
  if (error != cudaSuccess) {
    std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(error));
    std::exit(1);
  }
  std::memset(memory, 0xff, bytes);
  return memory;
}

void Free(void* memory, int64_t) { cudaFree(memory); }

}  // namespace paceline::kernels::emulation
