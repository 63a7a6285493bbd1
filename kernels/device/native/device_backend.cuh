// What kernels may ask of the device, as CUDA gives it; compiled by nvcc. The CPU's version with
// the same names: kernels/emulation/backend/device_backend.cuh.
#ifndef PACELINE_KERNELS_DEVICE_BACKEND_CUH_
#define PACELINE_KERNELS_DEVICE_BACKEND_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/device/native/error.h"
#include "kernels/device/stream.h"

namespace paceline::kernels::device {

struct Index3 {
  int32_t x = 1;
  int32_t y = 1;
  int32_t z = 1;
};

__device__ __forceinline__ Index3 ToIndex(dim3 d) {
  return {static_cast<int32_t>(d.x), static_cast<int32_t>(d.y), static_cast<int32_t>(d.z)};
}
__device__ __forceinline__ Index3 GridSize() { return ToIndex(gridDim); }
__device__ __forceinline__ Index3 BlockSize() { return ToIndex(blockDim); }
__device__ __forceinline__ Index3 BlockPosition() {
  return {static_cast<int32_t>(blockIdx.x),
          static_cast<int32_t>(blockIdx.y),
          static_cast<int32_t>(blockIdx.z)};
}
__device__ __forceinline__ Index3 ThreadPosition() {
  return {static_cast<int32_t>(threadIdx.x),
          static_cast<int32_t>(threadIdx.y),
          static_cast<int32_t>(threadIdx.z)};
}
__device__ __forceinline__ char* SharedMemory() {
  extern __shared__ __align__(1024) char shared[];
  return shared;
}

__device__ __forceinline__ void SyncThreads() { __syncthreads(); }
__device__ __forceinline__ void SyncWarp() { __syncwarp(); }
template <typename T>
__device__ __forceinline__ T Shuffle(T value, int source) {
  return __shfl_sync(0xffffffff, value, source);
}
template <typename T>
__device__ __forceinline__ T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffff, value, mask);
}

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(shared)), "l"(global)
               : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

__device__ __forceinline__ void LoadMatrix4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}
__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

__device__ __forceinline__ void MmaBf16(float (&c)[4],
                                        const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void MmaF16(float (&c)[4],
                                       const uint32_t (&a)[4],
                                       const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ float F16ToFloat(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ uint16_t FloatToF16(float value) {
  return __half_as_ushort(__float2half_rn(value));
}
__device__ __forceinline__ float Bf16ToFloat(uint16_t bits) {
  return __bfloat162float(__ushort_as_bfloat16(bits));
}
__device__ __forceinline__ uint16_t FloatToBf16(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
// In shared or global memory; gives what was there.
__device__ __forceinline__ uint32_t AtomicAdd(uint32_t* to, uint32_t value) {
  return atomicAdd(to, value);
}
__device__ __forceinline__ uint64_t AtomicAdd(uint64_t* to, uint64_t value) {
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  return atomicAdd(reinterpret_cast<unsigned long long*>(to), value);
}

// Between devices: what this thread's block has written before a barrier is seen by who awaits the
// value.
__device__ __forceinline__ void StoreRelease(uint64_t* to, uint64_t value) {
  asm volatile("fence.acq_rel.sys; st.release.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value)
               : "memory");
}
// Until it is `value` or more, or `*stop`, in memory of the host, is not 0: that is looked at
// seldom, since it is far.
__device__ __forceinline__ void AwaitAtLeast(uint64_t* from, uint64_t value, uint32_t* stop) {
  constexpr int kLook = 1024;
  for (int i = 1;; ++i) {
    uint64_t seen;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(seen) : "l"(from) : "memory");
    if (seen >= value) return;
    if (i % kLook != 0) continue;
    uint32_t stopped;
    asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(stopped) : "l"(stop) : "memory");
    if (stopped != 0) return;
  }
}

__device__ __forceinline__ uint32_t FloatBits(float x) { return __float_as_uint(x); }
__device__ __forceinline__ float BitsToFloat(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint64_t DoubleBits(double x) {
  return static_cast<uint64_t>(__double_as_longlong(x));
}
// 64 for 0.
__device__ __forceinline__ int CountLeadingZeros(uint64_t x) {
  return __clzll(static_cast<long long>(x));
}
__device__ __forceinline__ double Exp64(double x) { return exp(x); }
__device__ __forceinline__ double Log64(double x) { return log(x); }
__device__ __forceinline__ double Ceil64(double x) { return ceil(x); }

// a * b + c of two numbers each, rounded once.
__device__ __forceinline__ uint32_t MulAddPairsBf16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ uint32_t MulAddPairsF16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ __forceinline__ float Exp(float x) { return __expf(x); }
// a * b + c, rounded once; nothing else is fused (--fmad=false).
__device__ __forceinline__ float MulAdd(float a, float b, float c) { return fmaf(a, b, c); }
__device__ __forceinline__ float Exp2(float x) { return exp2f(x); }
// To nearest, ties to even. REQUIRES: it fits.
__device__ __forceinline__ int8_t RoundToInt8(float x) {
  return static_cast<int8_t>(__float2int_rn(x));
}
__device__ __forceinline__ float Tanh(float x) { return tanhf(x); }
__device__ __forceinline__ float InverseSqrt(float x) { return rsqrtf(x); }

// Starts kernel(args…) on the stream. Internal with CUDA's words when it cannot be started,
// Unavailable when the device has failed before.
template <typename... Parameters, typename... Args>
absl::Status Launch(Stream stream,
                    Index3 grid,
                    Index3 block,
                    int64_t shared_bytes,
                    void (*kernel)(Parameters...),
                    const Args&... args) {
  if (shared_bytes > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return ToStatus(error);
  }
  kernel<<<dim3(grid.x, grid.y, grid.z),
           dim3(block.x, block.y, block.z),
           shared_bytes,
           static_cast<cudaStream_t>(stream)>>>(args...);
  return ToStatus(cudaGetLastError());
}

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_BACKEND_CUH_
