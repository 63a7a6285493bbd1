// What kernels may ask of the device, on the CPU: the same names as
// kernels/device/native/device_backend.cuh, one of which the build puts on the include path.
#ifndef PACELINE_KERNELS_DEVICE_BACKEND_CUH_
#define PACELINE_KERNELS_DEVICE_BACKEND_CUH_

#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "kernels/device/stream.h"
#include "kernels/emulation/capture.h"
#include "kernels/emulation/grid.h"
#include "kernels/half.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline

namespace paceline::kernels::device {

using emulation::Index3;
using emulation::Location;

inline Index3 GridSize() { return emulation::GridSize(); }
inline Index3 BlockSize() { return emulation::BlockSize(); }
inline Index3 BlockPosition() { return emulation::BlockPosition(); }
inline Index3 ThreadPosition() { return emulation::ThreadPosition(); }
inline char* SharedMemory() { return emulation::SharedMemory(); }

inline void SyncThreads(const Location& at = Location::current()) { emulation::SyncBlock(at); }

inline void SyncWarp(const Location& at = Location::current()) {
  emulation::MeetWarp("SyncWarp", at, nullptr, [](emulation::Lanes) {});
}

// The value of lane `source`, which each lane chooses for itself.
template <typename T>
T Shuffle(T value, int source, const Location& at = Location::current()) {
  struct Operand {
    T value;
    int source;
    T result;
  } mine{value, source, value};
  emulation::MeetWarp("Shuffle", at, &mine, [](emulation::Lanes lanes) {
    for (int i = 0; i < 32; ++i) {
      auto* const operand = static_cast<Operand*>(lanes[i]);
      operand->result = static_cast<Operand*>(lanes[operand->source & 31])->value;
    }
  });
  return mine.result;
}

template <typename T>
T ShuffleXor(T value, int mask, const Location& at = Location::current()) {
  return Shuffle(value, (emulation::ThreadPosition().x % 32) ^ mask, at);
}

inline uint32_t SharedAddress(const void* p) { return emulation::SharedAddress(p); }
inline void CopyAsync16(void* shared,
                        const void* global,
                        const Location& at = Location::current()) {
  emulation::CopyAsync(shared, global, 16, at);
}
inline void CommitCopies() { emulation::CommitCopies(); }
template <int kLeft>
void WaitForCopies() {
  emulation::WaitForCopies(kLeft);
}

namespace internal {

struct MatrixOperand {
  const void* row;
  uint32_t* result;  // [4]
};

// Lanes 8 i to 8 i + 7 point to the rows of 8 x 8 matrix i, of 16-bit elements.
template <bool kTransposed>
void LoadMatrices(emulation::Lanes lanes) {
  for (int lane = 0; lane < 32; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t two[2];
      for (int i = 0; i < 2; ++i) {
        const int major = lane / 4;
        const int minor = lane % 4 * 2 + i;
        const int row = kTransposed ? minor : major;
        const int column = kTransposed ? major : minor;
        const void* const address = static_cast<const MatrixOperand*>(lanes[matrix * 8 + row])->row;
        two[i] = static_cast<const uint16_t*>(address)[column];
      }
      std::memcpy(static_cast<MatrixOperand*>(lanes[lane])->result + matrix, two, sizeof(two));
    }
  }
}

struct MmaOperand {
  float* c;           // [4]
  const uint32_t* a;  // [4]
  const uint32_t* b;  // [2]
};

// Element `i` of a register of two.
inline uint16_t Half(uint32_t pair, int i) { return static_cast<uint16_t>(pair >> (16 * i)); }

// D = A B + C; A 16 x 16, B 16 x 8, in the layout of PTX mma.m16n8k16.
template <float (*kToFloat)(uint16_t)>
void Mma(emulation::Lanes lanes) {
  float a[16][16];
  float b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* const operand = static_cast<const MmaOperand*>(lanes[lane]);
    const int group = lane / 4;
    const int column = lane % 4 * 2;
    for (int i = 0; i < 2; ++i) {
      a[group][column + i] = kToFloat(Half(operand->a[0], i));
      a[group + 8][column + i] = kToFloat(Half(operand->a[1], i));
      a[group][column + 8 + i] = kToFloat(Half(operand->a[2], i));
      a[group + 8][column + 8 + i] = kToFloat(Half(operand->a[3], i));
      b[column + i][group] = kToFloat(Half(operand->b[0], i));
      b[column + 8 + i][group] = kToFloat(Half(operand->b[1], i));
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* const c = static_cast<const MmaOperand*>(lanes[lane])->c;
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + (i >= 2 ? 8 : 0);
      const int column = lane % 4 * 2 + i % 2;
      for (int k = 0; k < 16; ++k) c[i] += a[row][k] * b[k][column];
    }
  }
}

}  // namespace internal

inline void LoadMatrix4(uint32_t (&result)[4],
                        const void* row,
                        const Location& at = Location::current()) {
  emulation::Check(reinterpret_cast<uintptr_t>(row) % 16 == 0, "LoadMatrix4: not aligned", at);
  internal::MatrixOperand mine{row, result};
  emulation::MeetWarp("LoadMatrix4", at, &mine, internal::LoadMatrices<false>);
}
inline void LoadMatrix4Transposed(uint32_t (&result)[4],
                                  const void* row,
                                  const Location& at = Location::current()) {
  emulation::Check(
      reinterpret_cast<uintptr_t>(row) % 16 == 0, "LoadMatrix4Transposed: not aligned", at);
  internal::MatrixOperand mine{row, result};
  emulation::MeetWarp("LoadMatrix4Transposed", at, &mine, internal::LoadMatrices<true>);
}

inline void MmaBf16(float (&c)[4],
                    const uint32_t (&a)[4],
                    const uint32_t (&b)[2],
                    const Location& at = Location::current()) {
  internal::MmaOperand mine{c, a, b};
  emulation::MeetWarp("MmaBf16", at, &mine, internal::Mma<Bfloat16ToFloat>);
}
inline void MmaF16(float (&c)[4],
                   const uint32_t (&a)[4],
                   const uint32_t (&b)[2],
                   const Location& at = Location::current()) {
  internal::MmaOperand mine{c, a, b};
  emulation::MeetWarp("MmaF16", at, &mine, internal::Mma<HalfToFloat>);
}

// Gives what was there.
template <typename T>
T AtomicAdd(T* to, T value) {
  const T before = *to;
  *to += value;
  return before;
}

inline void StoreRelease(uint64_t* to, uint64_t value) {
  std::atomic_ref(*to).store(value, std::memory_order_release);
}
inline void AwaitAtLeast(uint64_t* from,
                         uint64_t value,
                         uint32_t* stop,
                         const Location& at = Location::current()) {
  const auto is_there = [&] {
    return std::atomic_ref(*from).load(std::memory_order_acquire) >= value ||
           std::atomic_ref(*stop).load(std::memory_order_relaxed) != 0;
  };
  emulation::AwaitOutside(is_there, at);
}

inline uint32_t FloatBits(float x) { return std::bit_cast<uint32_t>(x); }
inline float BitsToFloat(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint64_t DoubleBits(double x) { return std::bit_cast<uint64_t>(x); }
inline int CountLeadingZeros(uint64_t x) { return std::countl_zero(x); }
inline double Exp64(double x) { return std::exp(x); }
inline double Log64(double x) { return std::log(x); }
inline double Ceil64(double x) { return std::ceil(x); }

inline float F16ToFloat(uint16_t bits) { return HalfToFloat(bits); }
inline uint16_t FloatToF16(float value) { return FloatToHalf(value); }
inline float Bf16ToFloat(uint16_t bits) { return Bfloat16ToFloat(bits); }
inline uint16_t FloatToBf16(float value) { return FloatToBfloat16(value); }

namespace internal {

// In double precision the product is exact, and so is the sum of numbers that are not far apart.
template <float (*kToFloat)(uint16_t), uint16_t (*kFromFloat)(float)>
uint32_t MulAddPairs(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t pair = 0;
  for (int i = 0; i < 2; ++i) {
    const double product = static_cast<double>(kToFloat(Half(a, i))) * kToFloat(Half(b, i));
    const auto sum = static_cast<float>(product + kToFloat(Half(c, i)));
    pair |= static_cast<uint32_t>(kFromFloat(sum)) << (16 * i);
  }
  return pair;
}

}  // namespace internal

// a * b + c of two numbers each, rounded once.
inline uint32_t MulAddPairsBf16(uint32_t a, uint32_t b, uint32_t c) {
  return internal::MulAddPairs<Bfloat16ToFloat, FloatToBfloat16>(a, b, c);
}
inline uint32_t MulAddPairsF16(uint32_t a, uint32_t b, uint32_t c) {
  return internal::MulAddPairs<HalfToFloat, FloatToHalf>(a, b, c);
}
inline float Exp(float x) { return std::exp(x); }
inline float Exp2(float x) { return std::exp2(x); }
// a * b + c, rounded once; nothing else is fused.
inline float MulAdd(float a, float b, float c) { return std::fma(a, b, c); }
// To nearest, ties to even. REQUIRES: it fits.
inline int8_t RoundToInt8(float x) { return static_cast<int8_t>(std::lrint(x)); }
inline float Tanh(float x) { return std::tanh(x); }
inline float InverseSqrt(float x) { return 1.0f / std::sqrt(x); }

// Runs kernel(args…) on every thread of the grid.
template <typename... Parameters, typename... Args>
absl::Status Launch(Stream stream,
                    Index3 grid,
                    Index3 block,
                    int64_t shared_bytes,
                    void (*kernel)(Parameters...),
                    const Args&... args) {
  return emulation::DoOrCapture(stream, [=] {
    return emulation::Launch(grid, block, shared_bytes, [&] { kernel(args...); });
  });
}

}  // namespace paceline::kernels::device

#endif  // PACELINE_KERNELS_DEVICE_BACKEND_CUH_
