// What this machine can do at most, measured when asked: the bounds that kernels are held against.
// Stateless; call from the pool's owner thread.
#ifndef PACELINE_TESTS_BENCH_ROOFS_H_
#define PACELINE_TESTS_BENCH_ROOFS_H_

#include <cstdint>

#include "kernels/cpu/thread_pool.h"

namespace paceline::kernels {

// True when the loops below can run: they use AVX-512 and VNNI.
bool CanMeasureRoofs();

// The least of several runs of each loop, in seconds. REQUIRES: CanMeasureRoofs().

// Every thread reads its part of one buffer of so many bytes, over and over: a buffer that fits in
// a cache is read from there.
double SecondsToRead(ThreadPool& pool, int64_t bytes);
// vpdpbusd on registers: products of bytes, added to int32.
double SecondsPerInt8Mac(ThreadPool& pool);
// vfmadd on registers: products of float32.
double SecondsPerFloatMac(ThreadPool& pool);

}  // namespace paceline::kernels

#endif  // PACELINE_TESTS_BENCH_ROOFS_H_
