// Paged attention over 16 lanes; V is Avx2 or Avx512. Only for tuned files (kernels/README.md).
//
// Up to 12 query vectors share a pass over a chunk. Each query's arithmetic, whatever its company:
//   score of a position:  fma over head_dim in order, times scale      (one lane)
//   max, sum of weights:  16 lanes over the positions, then a fixed tree
//   weighted values:      fma over the positions in order              (one lane per dimension)
// A position that a query does not see never enters its arithmetic, not even times zero.
//
// On a cache of int8 both sums of products are integers and exact: the query, and the weights times
// the values' scales, are rounded to 16 bits of their largest. What a query does not see has weight
// 0 there.
#ifndef PACELINE_KERNELS_ATTENTION_PAGED_ATTENTION_SIMD_H_
#define PACELINE_KERNELS_ATTENTION_PAGED_ATTENTION_SIMD_H_

#include <immintrin.h>

#include "kernels/attention/attention_kernels.h"
#include "kernels/simd/math.h"

namespace paceline::kernels {
namespace {

constexpr int kChunk = 256;
constexpr int kBlock = 32;

// Elements of the cache.
template <typename V>
struct Half {
  static constexpr int64_t kBytes = 2;
  static typename V::F32 Load(const uint8_t* p) {
    return V::LoadHalf(reinterpret_cast<const uint16_t*>(p));
  }
};
template <typename V>
struct Float {
  static constexpr int64_t kBytes = 4;
  static typename V::F32 Load(const uint8_t* p) {
    return V::Load(reinterpret_cast<const float*>(p));
  }
};

// Blocks come from memory this many blocks before they are used. To L2: L1 has too few miss buffers
// to keep memory busy.
constexpr int32_t kAhead = 2;

// The block to touch while `block` of num_blocks is read.
inline const uint8_t* Coming(const uint8_t* const* blocks,
                             const uint8_t* const* after,
                             int32_t block,
                             int32_t num_blocks) {
  const int32_t past = block + kAhead - num_blocks;
  return past < 0 ? blocks[block + kAhead] : after[past < kAhead ? past : kAhead - 1];
}

// Lines of `p` as far as `bytes`.
inline void Prefetch(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
  }
}

// Query vectors that share a pass, and whether the accumulators of N of them fit the registers
// twice.
template <typename V>
constexpr int kTile = V::kRegisters >= 32 ? kQueryTile : 6;
template <typename V, int N>
constexpr bool kFitsTwice = 2 * N + 3 <= V::kRegisters;

// scores[i][0..32) = q[i] . keys, times scale. q is transposed: q[d * kQueryTile + i]. Touches
// `next`, as large as the block of keys, on the way.
template <typename V, typename T, int N>
void ScoreBlock(const uint8_t* keys,
                const uint8_t* next,
                const float* q,
                int64_t head_dim,
                float scale,
                float* scores) {
  using F32 = typename V::F32;
  constexpr int kWide = kFitsTwice<V, N> ? 2 : 1;  // vectors of 16 positions per pass
  for (int first = 0; first < kBlock; first += 16 * kWide) {
    F32 acc[N][kWide];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) acc[i][v] = V::All(0);
    }
    for (int64_t d = 0; d < head_dim; ++d) {
      const int64_t at = (d * kBlock + first) * T::kBytes;
      Prefetch(next + at, 16 * kWide * T::kBytes);
      F32 k[kWide];
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) k[v] = T::Load(keys + at + 16 * T::kBytes * v);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        const F32 qd = V::All(q[d * kQueryTile + i]);
#pragma GCC unroll 2
        for (int v = 0; v < kWide; ++v) acc[i][v] = V::MulAdd(qd, k[v], acc[i][v]);
      }
    }
    const F32 s = V::All(scale);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) {
        V::Store(scores + i * kChunk + first + 16 * v, acc[i][v] * s);
      }
    }
  }
}

// Turns the scores of the first `visible` positions into weights; writes max and sum.
template <typename V>
void Softmax(float* scores, int32_t visible, float* max_and_sum) {
  using F32 = typename V::F32;
  constexpr float kLowest = -__builtin_inff();
  F32 max = V::All(kLowest);
  for (int32_t t = 0; t < visible; t += 16) {
    max = V::Max(max, V::LoadFirst(scores + t, visible - t, kLowest));
  }
  const float largest = V::ReduceMax(max);
  const F32 m = V::All(largest);
  F32 sum = V::All(0);
  for (int32_t t = 0; t < visible; t += 16) {
    const F32 p = Exp<V>(V::LoadFirst(scores + t, visible - t) - m);
    V::StoreFirst(scores + t, p, visible - t);
    sum = V::AddFirst(sum, p, visible - t);
  }
  max_and_sum[0] = largest;
  max_and_sum[1] = V::ReduceAdd(sum);
}

// out[i][0..16 kWide) += weights[i][t] * values[t] for the positions t in [begin, end) of the
// chunk; `values` are the blocks' rows, `offset` bytes in.
template <typename V, typename T, int N, int kWide>
void AddValues(const uint8_t* const* values,
               const uint8_t* const* after,
               int64_t offset,
               int64_t row_bytes,
               int32_t begin,
               int32_t end,
               const float* weights,
               float* out,
               int64_t out_stride) {
  using F32 = typename V::F32;
  F32 acc[N][kWide];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) acc[i][v] = V::Load(out + i * out_stride + 16 * v);
  }
  for (int32_t t = begin; t < end;) {
    const uint8_t* row = values[t / kBlock] + t % kBlock * row_bytes + offset;
    const int32_t block_end = (t / kBlock + 1) * kBlock;
    const int32_t stop = block_end < end ? block_end : end;
    // The same place of a coming block.
    const int64_t ahead =
        Coming(values, after, t / kBlock, (end + kBlock - 1) / kBlock) - values[t / kBlock];
    for (; t < stop; ++t, row += row_bytes) {
      Prefetch(row + ahead, kWide * 16 * T::kBytes);
      F32 x[kWide];
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) x[v] = T::Load(row + 16 * T::kBytes * v);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        const F32 w = V::All(weights[i * kChunk + t]);
#pragma GCC unroll 4
        for (int v = 0; v < kWide; ++v) acc[i][v] = V::MulAdd(w, x[v], acc[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) V::Store(out + i * out_stride + 16 * v, acc[i][v]);
  }
}

// All dimensions.
template <typename V, typename T, int N>
void AddAllValues(const uint8_t* const* values,
                  const uint8_t* const* after,
                  int64_t head_dim,
                  int32_t begin,
                  int32_t end,
                  const float* weights,
                  float* out) {
  // Vectors of 16 dimensions per pass.
  constexpr int kWide = 8 * N <= V::kRegisters ? 4 : kFitsTwice<V, N> ? 2 : 1;
  const int64_t stride = head_dim + kPartialExtra;
  const int64_t row_bytes = head_dim * T::kBytes;
  int64_t d = 0;
  for (; d + 16 * kWide <= head_dim; d += 16 * kWide) {
    AddValues<V, T, N, kWide>(
        values, after, d * T::kBytes, row_bytes, begin, end, weights, out + d, stride);
  }
  for (; d < head_dim; d += 16) {
    AddValues<V, T, N, 1>(
        values, after, d * T::kBytes, row_bytes, begin, end, weights, out + d, stride);
  }
}

// Query vectors [first, first + N) of the call.
template <typename V, typename T, int N>
void ChunkTile(const ChunkArgs& args, int32_t first) {
  float* const q = args.scratch;
  float* const scores = args.scratch + kQueryTile * args.head_dim;
  const int64_t stride = args.head_dim + kPartialExtra;
  float* const out = args.partials + first * stride;
  int32_t visible[N];  // non-decreasing
  for (int i = 0; i < N; ++i) {
    const int32_t row = (first + i) / args.group;
    const float* const source =
        args.q + row * args.q_row_stride + (first + i) % args.group * args.head_dim;
    for (int64_t d = 0; d < args.head_dim; ++d) q[d * kQueryTile + i] = source[d];
    visible[i] = args.first_visible + row < kChunk ? args.first_visible + row : kChunk;
  }
  const int32_t num_blocks = (visible[N - 1] + kBlock - 1) / kBlock;
  for (int32_t b = 0; b < num_blocks; ++b) {
    const int32_t coming = b + kAhead;
    const uint8_t* const next = coming < num_blocks       ? args.keys[coming]
                                : coming < 2 * num_blocks ? args.values[coming - num_blocks]
                                                          : args.values[0];
    ScoreBlock<V, T, N>(args.keys[b], next, q, args.head_dim, args.scale, scores + b * kBlock);
  }
  for (int i = 0; i < N; ++i) {
    Softmax<V>(scores + i * kChunk, visible[i], out + i * stride + args.head_dim);
    for (int64_t d = 0; d < args.head_dim; d += 16) {
      V::Store(out + i * stride + d, V::All(0));
    }
  }
  // What all see together, then what only later rows see.
  AddAllValues<V, T, N>(args.values, args.after, args.head_dim, 0, visible[0], scores, out);
  for (int i = 1; i < N; ++i) {
    if (visible[0] == visible[i]) continue;
    AddAllValues<V, T, 1>(args.values,
                          args.after,
                          args.head_dim,
                          visible[0],
                          visible[i],
                          scores + i * kChunk,
                          out + i * stride);
  }
}

// ---- The cache of int8

constexpr float kMostInt16 = 32767.0f;

// Rounds x[0..n), n a multiple of 16, to 16 bits of its largest, out[d / 2 * stride + d % 2], and
// returns the scale; NaN when one is not finite.
template <typename V>
float QuantizeQuery(const float* x, int64_t n, int16_t* out, int64_t stride) {
  using F32 = typename V::F32;
  F32 max = V::All(0);
  unsigned bad = 0;
  for (int64_t d = 0; d < n; d += 16) {
    const F32 a = V::Abs(V::Load(x + d));
    bad |= V::NotLess(a, V::All(__builtin_inff()));
    max = V::Max(a, max);
  }
  const float largest = V::ReduceMax(max);
  const bool tiny = largest < 1e-30f;  // too small to invert
  const F32 inverse = V::All(bad != 0 || tiny ? 0.0f : kMostInt16 / largest);
  for (int64_t d = 0; d < n; d += 16) {
    int16_t rounded[16];
    V::StoreInt16(rounded, V::ToInt(V::Load(x + d) * inverse));
    for (int64_t i = 0; i < 16; i += 2) {
      __builtin_memcpy(out + (d + i) / 2 * stride, rounded + i, 2 * sizeof(int16_t));
    }
  }
  return bad != 0 ? __builtin_nanf("") : tiny ? 0.0f : largest / kMostInt16;
}

// scores[i][0..32) of the block. q: [head_dim / 2][kQueryTile][2].
template <typename V, int N>
void ScoreInt8Block(const uint8_t* keys,
                    const uint8_t* next,
                    const int16_t* q,
                    const float* q_scales,
                    int64_t head_dim,
                    float* scores) {
  using I32 = typename V::I32;
  const float* const scales = reinterpret_cast<const float*>(keys + kBlock * head_dim);
  constexpr int kWide = kFitsTwice<V, N> ? 2 : 1;
  for (int first = 0; first < kBlock; first += 16 * kWide) {
    I32 acc[N][kWide];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) acc[i][v] = V::AllInt(0);
    }
    for (int64_t d = 0; d < head_dim; d += 2) {
      const int64_t at = d * kBlock + 2 * first;
      Prefetch(next + at, 32 * kWide);
      typename V::I16 k[kWide];
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) k[v] = V::LoadInt8Pairs(keys + at + 32 * v);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        const typename V::I16 two = V::AllPairs(q + d * kQueryTile + 2 * i);
#pragma GCC unroll 2
        for (int v = 0; v < kWide; ++v) acc[i][v] = V::AddProducts(two, k[v], acc[i][v]);
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kWide; ++v) {
        const typename V::F32 scale = V::Load(scales + first + 16 * v) * V::All(q_scales[i]);
        V::Store(scores + i * kChunk + first + 16 * v, V::ToFloat(acc[i][v]) * scale);
      }
    }
  }
}

// Rounds weights times the values' scales to 16 bits, 0 from `visible` to `end` (multiples of 16
// are written whole), and returns their scale.
template <typename V>
float QuantizeWeights(float* weights,
                      const uint8_t* const* values,
                      int64_t value_bytes,
                      int32_t visible,
                      int32_t end,
                      int16_t* out) {
  using F32 = typename V::F32;
  F32 max = V::All(0);
  unsigned bad = 0;
  for (int32_t t = 0; t < visible; t += 16) {
    const auto* const scales = reinterpret_cast<const float*>(values[t / kBlock] + value_bytes);
    const int32_t left = visible - t;
    const F32 w = V::LoadFirst(weights + t, left) * V::LoadFirst(scales + t % kBlock, left);
    bad |= V::NotLess(w, V::All(__builtin_inff()));
    max = V::Max(w, max);
    V::StoreFirst(weights + t, w, left);
  }
  const float largest = V::ReduceMax(max);
  const bool tiny = largest < 1e-30f;
  const F32 inverse = V::All(bad != 0 || tiny ? 0.0f : kMostInt16 / largest);
  for (int32_t t = 0; t < end; t += 16) {
    V::StoreInt16(out + t, V::ToInt(V::LoadFirst(weights + t, visible - t) * inverse));
  }
  return bad != 0 ? __builtin_nanf("") : tiny ? 0.0f : largest / kMostInt16;
}

// out[i][0..16 kWide) = scales[i] * weights[i] . values over `num_pairs` pairs of positions.
template <typename V, int N, int kWide>
void SumInt8Values(const uint8_t* const* values,
                   const uint8_t* const* after,
                   int64_t offset,
                   int64_t pair_bytes,
                   int32_t num_pairs,
                   const int16_t* weights,
                   const float* scales,
                   float* out,
                   int64_t out_stride) {
  typename V::I32 acc[N][kWide];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) acc[i][v] = V::AllInt(0);
  }
  constexpr int32_t kPairs = kBlock / 2;
  for (int32_t p = 0; p < num_pairs;) {
    const uint8_t* row = values[p / kPairs] + offset;
    const int32_t block_end = (p / kPairs + 1) * kPairs;
    const int32_t stop = block_end < num_pairs ? block_end : num_pairs;
    const int32_t num_blocks = (num_pairs + kPairs - 1) / kPairs;
    const int64_t ahead = Coming(values, after, p / kPairs, num_blocks) - values[p / kPairs];
    for (; p < stop; ++p, row += pair_bytes) {
      Prefetch(row + ahead, 32 * kWide);
      typename V::I16 x[kWide];
#pragma GCC unroll 4
      for (int v = 0; v < kWide; ++v) x[v] = V::LoadInt8Pairs(row + 32 * v);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        const typename V::I16 two = V::AllPairs(weights + i * kChunk + 2 * p);
#pragma GCC unroll 4
        for (int v = 0; v < kWide; ++v) acc[i][v] = V::AddProducts(two, x[v], acc[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kWide; ++v) {
      V::Store(out + i * out_stride + 16 * v, V::ToFloat(acc[i][v]) * V::All(scales[i]));
    }
  }
}

// Query vectors [first, first + N) of the call.
template <typename V, int N>
void Int8ChunkTile(const ChunkArgs& args, int32_t first) {
  auto* const q = reinterpret_cast<int16_t*>(args.scratch);
  float* const scores = args.scratch + kQueryTile * args.head_dim;
  auto* const weights = reinterpret_cast<int16_t*>(scores + kQueryTile * kChunk);
  const int64_t stride = args.head_dim + kPartialExtra;
  float* const out = args.partials + first * stride;
  const int64_t value_bytes = kBlock * args.head_dim;
  int32_t visible[N];  // non-decreasing
  float scales[N];
  for (int i = 0; i < N; ++i) {
    const int32_t row = (first + i) / args.group;
    const float* const source =
        args.q + row * args.q_row_stride + (first + i) % args.group * args.head_dim;
    scales[i] = QuantizeQuery<V>(source, args.head_dim, q + 2 * i, 2 * kQueryTile) * args.scale;
    visible[i] = args.first_visible + row < kChunk ? args.first_visible + row : kChunk;
  }
  const int32_t num_blocks = (visible[N - 1] + kBlock - 1) / kBlock;
  for (int32_t b = 0; b < num_blocks; ++b) {
    const int32_t coming = b + kAhead;
    const uint8_t* const next = coming < num_blocks       ? args.keys[coming]
                                : coming < 2 * num_blocks ? args.values[coming - num_blocks]
                                                          : args.values[0];
    ScoreInt8Block<V, N>(args.keys[b], next, q, scales, args.head_dim, scores + b * kBlock);
  }
  const int32_t num_pairs = (visible[N - 1] + 1) / 2;
  for (int i = 0; i < N; ++i) {
    float* const p = scores + i * kChunk;
    Softmax<V>(p, visible[i], out + i * stride + args.head_dim);
    scales[i] = QuantizeWeights<V>(
        p, args.values, value_bytes, visible[i], 2 * num_pairs, weights + i * kChunk);
  }
  // Vectors of 16 dimensions per pass.
  constexpr int kWide = 8 * N <= V::kRegisters ? 4 : kFitsTwice<V, N> ? 2 : 1;
  const int64_t pair_bytes = 2 * args.head_dim;
  int64_t d = 0;
  for (; d + 16 * kWide <= args.head_dim; d += 16 * kWide) {
    SumInt8Values<V, N, kWide>(
        args.values, args.after, 2 * d, pair_bytes, num_pairs, weights, scales, out + d, stride);
  }
  for (; d < args.head_dim; d += 16) {
    SumInt8Values<V, N, 1>(
        args.values, args.after, 2 * d, pair_bytes, num_pairs, weights, scales, out + d, stride);
  }
}

// A tile of `size` query vectors, at most N; T is void for the cache of int8.
template <typename V, typename T, int N = kTile<V>>
void RunTile(int32_t size, const ChunkArgs& args, int32_t first) {
  if (size == N) {
    if constexpr (__is_same(T, void)) {
      return Int8ChunkTile<V, N>(args, first);
    } else {
      return ChunkTile<V, T, N>(args, first);
    }
  }
  if constexpr (N > 1) RunTile<V, T, N - 1>(size, args, first);
}

template <typename V, typename T>
void ChunkAll(const ChunkArgs& args) {
  const int32_t count = args.num_rows * args.group;
  const int32_t num_tiles = (count + kTile<V> - 1) / kTile<V>;
  for (int32_t t = 0; t < num_tiles; ++t) {
    const int32_t first = count * t / num_tiles;
    const int32_t size = count * (t + 1) / num_tiles - first;
    RunTile<V, T>(size, args, first);
  }
}

template <typename V>
void Chunk(const ChunkArgs& args) {
  switch (args.element) {
    case KvElement::kF32:
      return ChunkAll<V, Float<V>>(args);
    case KvElement::kF16:
      return ChunkAll<V, Half<V>>(args);
    case KvElement::kI8:
      return ChunkAll<V, void>(args);
  }
}

template <typename V>
void Merge(float* into, const float* next, int64_t head_dim) {
  using F32 = typename V::F32;
  const F32 old_max = V::All(into[head_dim]);
  const F32 new_max = V::All(next[head_dim]);
  const F32 max = V::Max(old_max, new_max);
  const F32 a = Exp<V>(old_max - max);
  const F32 b = Exp<V>(new_max - max);
  for (int64_t d = 0; d < head_dim; d += 16) {
    V::Store(into + d, V::MulAdd(V::Load(next + d), b, V::Load(into + d) * a));
  }
  into[head_dim] = V::First(max);
  const F32 sum = V::All(into[head_dim + 1]) * a;
  into[head_dim + 1] = V::First(V::MulAdd(V::All(next[head_dim + 1]), b, sum));
}

template <typename V>
void Finish(const float* partial, int64_t head_dim, float* out) {
  const typename V::F32 sum = V::All(partial[head_dim + 1]);
  for (int64_t d = 0; d < head_dim; d += 16) V::Store(out + d, V::Load(partial + d) / sum);
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ATTENTION_PAGED_ATTENTION_SIMD_H_
