#include "tests/bench/roofs.h"

#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cpu/aligned_buffer.h"
#include "kernels/dispatch.h"

// This file's loops alone: the binary runs where they cannot.
#define ROOF_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

namespace paceline::kernels {
namespace {

constexpr double kBudgetSeconds = 0.05;
constexpr int64_t kRegisterRounds = 20'000;
constexpr int kAccumulators = 8;  // more than latency times throughput

double Now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Keeps what `v` was computed from, at no cost.
ROOF_TARGET inline void Use(__m512i v) { asm volatile("" : : "v"(v)); }

ROOF_TARGET void ReadAll(const uint8_t* p, int64_t bytes) {
  __m512i sum[4] = {};
  for (int64_t i = 0; i + 256 <= bytes; i += 256) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      _mm_prefetch(reinterpret_cast<const char*>(p + i + 64 * k + 4096), _MM_HINT_T0);
      sum[k] = _mm512_xor_si512(sum[k], _mm512_load_si512(p + i + 64 * k));
    }
  }
  for (const __m512i v : sum) Use(v);
}

// Named, because an array of accumulators may live in memory; opaque, because equal sums would
// become one.
ROOF_TARGET void Int8Macs() {
  const __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(-2);
  __m512i s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a;
  for (int64_t i = 0; i < kRegisterRounds; ++i) {
    s0 = _mm512_dpbusd_epi32(s0, a, b);
    s1 = _mm512_dpbusd_epi32(s1, a, b);
    s2 = _mm512_dpbusd_epi32(s2, a, b);
    s3 = _mm512_dpbusd_epi32(s3, a, b);
    s4 = _mm512_dpbusd_epi32(s4, a, b);
    s5 = _mm512_dpbusd_epi32(s5, a, b);
    s6 = _mm512_dpbusd_epi32(s6, a, b);
    s7 = _mm512_dpbusd_epi32(s7, a, b);
    asm volatile(""
                 : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5), "+v"(s6), "+v"(s7));
  }
}

ROOF_TARGET void FloatMacs() {
  const __m512 a = _mm512_set1_ps(0.5F);
  const __m512 b = _mm512_set1_ps(0.25F);
  __m512 s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a, s6 = a, s7 = a;
  for (int64_t i = 0; i < kRegisterRounds; ++i) {
    s0 = _mm512_fmadd_ps(a, b, s0);
    s1 = _mm512_fmadd_ps(a, b, s1);
    s2 = _mm512_fmadd_ps(a, b, s2);
    s3 = _mm512_fmadd_ps(a, b, s3);
    s4 = _mm512_fmadd_ps(a, b, s4);
    s5 = _mm512_fmadd_ps(a, b, s5);
    s6 = _mm512_fmadd_ps(a, b, s6);
    s7 = _mm512_fmadd_ps(a, b, s7);
    asm volatile(""
                 : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5), "+v"(s6), "+v"(s7));
  }
}

// The least time of `body` on every thread at once.
double Least(ThreadPool& pool, absl::FunctionRef<void(int part, int num_parts)> body) {
  double least = 1e30;
  const double start = Now();
  for (int i = 0; i < 4 || Now() - start < kBudgetSeconds; ++i) {
    const double before = Now();
    pool.Run(body);
    least = std::min(least, Now() - before);
  }
  return least;
}

}  // namespace

bool CanMeasureRoofs() { return CpuIsaSupported(CpuIsa::kAvx512Vnni); }

double SecondsToRead(ThreadPool& pool, int64_t bytes) {
  const int64_t line = 256 * int64_t{pool.num_threads()};
  const int64_t size = std::max(bytes / line, int64_t{1}) * line;
  auto buffer = AlignedBuffer::Allocate(size + 8192);
  if (!buffer.ok()) std::abort();
  std::memset(buffer->data(), 1, buffer->size());
  // Small buffers many times: starting a region is not what is measured.
  const int64_t times = std::max<int64_t>(1, (1 << 22) / size);
  const double seconds = Least(pool, [&](int part, int num_parts) {
    const uint8_t* begin = buffer->data() + size / num_parts * part;
    for (int64_t i = 0; i < times; ++i) ReadAll(begin, size / num_parts);
  });
  return seconds / static_cast<double>(times) * static_cast<double>(bytes) /
         static_cast<double>(size);
}

double SecondsPerInt8Mac(ThreadPool& pool) {
  const double macs = 64.0 * kAccumulators * kRegisterRounds * pool.num_threads();
  return Least(pool, [](int, int) { Int8Macs(); }) / macs;
}

double SecondsPerFloatMac(ThreadPool& pool) {
  const double macs = 16.0 * kAccumulators * kRegisterRounds * pool.num_threads();
  return Least(pool, [](int, int) { FloatMacs(); }) / macs;
}

}  // namespace paceline::kernels
