// What tests ask of the emulation, on a GPU. Those of tests/kernels/emulation read and write device
// memory as if it were the host's, so here it is memory that both reach. Launches must be waited
// for: CUDA_LAUNCH_BLOCKING=1 (run.sh).
#include <cuda_runtime.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/emulation/memory.h"
#include "kernels/emulation/runtime.h"

namespace {
std::atomic<int64_t> g_num_graph_starts{0};
}  // namespace

// The linker has calls of cudaGraphLaunch come here.
extern "C" cudaError_t __real_cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
extern "C" cudaError_t __wrap_cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  ++g_num_graph_starts;
  return __real_cudaGraphLaunch(graph, stream);
}

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

void SetStreamsAsync(bool) {}

static __global__ void TrapKernel() { asm volatile("trap;"); }

int64_t NumGraphStarts() { return g_num_graph_starts; }

void BreakDevice() {
  TrapKernel<<<1, 1>>>();
  cudaDeviceSynchronize();
}

}  // namespace paceline::kernels::emulation
