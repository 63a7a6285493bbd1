// AVX-512 kernels of paged attention. Own -m flags: see kernels/README.md.
//
// Up to 12 query vectors share a pass over a chunk. Each query's arithmetic, whatever its company:
//   score of a position:  fma over head_dim in order, times scale      (one lane)
//   max, sum of weights:  16 lanes over the positions, then a fixed tree
//   weighted values:      fma over the positions in order              (one lane per dimension)
// A position that a query does not see never enters its arithmetic, not even times zero.
#include <immintrin.h>

#include "kernels/attention/attention_kernels.h"
#include "kernels/simd/math_avx512.h"

namespace paceline::kernels {
namespace {

constexpr int kChunk = 256;
constexpr int kBlock = 32;

struct Half {
  static constexpr int64_t kBytes = 2;
  static __m512 Load(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
};
struct Float {
  static constexpr int64_t kBytes = 4;
  static __m512 Load(const uint8_t* p) { return _mm512_loadu_ps(p); }
};

// Blocks come from memory this many blocks before they are used. To L2: L1 has too few miss buffers
// to keep memory busy.
constexpr int32_t kAhead = 2;

// Lines of `p` as far as `bytes`.
inline void Prefetch(const uint8_t* p, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
  }
}

// scores[i][0..32) = q[i] . keys, times scale. q is transposed: q[d * kQueryTile + i]. Touches
// `next`, as large as the block of keys, on the way.
template <typename T, int N>
void ScoreBlock(const uint8_t* keys,
                const uint8_t* next,
                const float* q,
                int64_t head_dim,
                float scale,
                float* scores) {
  __m512 acc[N][2];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
  for (int64_t d = 0; d < head_dim; ++d) {
    const uint8_t* const row = keys + d * kBlock * T::kBytes;
    Prefetch(next + d * kBlock * T::kBytes, kBlock * T::kBytes);
    const __m512 k0 = T::Load(row);
    const __m512 k1 = T::Load(row + 16 * T::kBytes);
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      const __m512 qd = _mm512_set1_ps(q[d * kQueryTile + i]);
      acc[i][0] = _mm512_fmadd_ps(qd, k0, acc[i][0]);
      acc[i][1] = _mm512_fmadd_ps(qd, k1, acc[i][1]);
    }
  }
  const __m512 s = _mm512_set1_ps(scale);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
    _mm512_store_ps(scores + i * kChunk, _mm512_mul_ps(acc[i][0], s));
    _mm512_store_ps(scores + i * kChunk + 16, _mm512_mul_ps(acc[i][1], s));
  }
}

// Turns the scores of the first `visible` positions into weights; writes max and sum.
void Softmax(float* scores, int32_t visible, float* max_and_sum) {
  const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
  __m512 max = lowest;
  for (int32_t t = 0; t < visible; t += 16) {
    const __mmask16 lanes = LaneMask(visible - t);
    max = _mm512_max_ps(max, _mm512_mask_loadu_ps(lowest, lanes, scores + t));
  }
  const float largest = _mm512_reduce_max_ps(max);
  const __m512 m = _mm512_set1_ps(largest);
  __m512 sum = _mm512_setzero_ps();
  for (int32_t t = 0; t < visible; t += 16) {
    const __mmask16 lanes = LaneMask(visible - t);
    const __m512 p = Exp(_mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, scores + t), m));
    _mm512_mask_storeu_ps(scores + t, lanes, p);
    sum = _mm512_mask_add_ps(sum, lanes, sum, p);
  }
  max_and_sum[0] = largest;
  max_and_sum[1] = _mm512_reduce_add_ps(sum);
}

// out[i][0..16 V) += weights[i][t] * values[t] for the positions t in [begin, end) of the chunk;
// `values` are the blocks' rows, `offset` bytes in.
template <typename T, int N, int V>
void AddValues(const uint8_t* const* values,
               int64_t offset,
               int64_t row_bytes,
               int32_t begin,
               int32_t end,
               const float* weights,
               float* out,
               int64_t out_stride) {
  __m512 acc[N][V];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[i][v] = _mm512_loadu_ps(out + i * out_stride + 16 * v);
  }
  for (int32_t t = begin; t < end;) {
    const uint8_t* row = values[t / kBlock] + t % kBlock * row_bytes + offset;
    const int32_t block_end = (t / kBlock + 1) * kBlock;
    const int32_t stop = block_end < end ? block_end : end;
    // The same place of a coming block; past the last one, of this one again.
    const int32_t coming = t / kBlock + kAhead;
    const int64_t ahead = coming * kBlock < end ? values[coming] - values[t / kBlock] : 0;
    for (; t < stop; ++t, row += row_bytes) {
      Prefetch(row + ahead, V * 16 * T::kBytes);
      __m512 x[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) x[v] = T::Load(row + 16 * T::kBytes * v);
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) {
        const __m512 w = _mm512_set1_ps(weights[i * kChunk + t]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[i][v] = _mm512_fmadd_ps(w, x[v], acc[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) _mm512_storeu_ps(out + i * out_stride + 16 * v, acc[i][v]);
  }
}

// All dimensions.
template <typename T, int N>
void AddAllValues(const uint8_t* const* values,
                  int64_t head_dim,
                  int32_t begin,
                  int32_t end,
                  const float* weights,
                  float* out) {
  constexpr int kWide = N <= 4 ? 4 : 2;  // vectors of 16 dimensions per pass
  const int64_t stride = head_dim + kPartialExtra;
  const int64_t row_bytes = head_dim * T::kBytes;
  int64_t d = 0;
  for (; d + 16 * kWide <= head_dim; d += 16 * kWide) {
    AddValues<T, N, kWide>(values, d * T::kBytes, row_bytes, begin, end, weights, out + d, stride);
  }
  for (; d < head_dim; d += 16) {
    AddValues<T, N, 1>(values, d * T::kBytes, row_bytes, begin, end, weights, out + d, stride);
  }
}

// Query vectors [first, first + N) of the call.
template <typename T, int N>
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
    ScoreBlock<T, N>(args.keys[b], next, q, args.head_dim, args.scale, scores + b * kBlock);
  }
  for (int i = 0; i < N; ++i) {
    Softmax(scores + i * kChunk, visible[i], out + i * stride + args.head_dim);
    for (int64_t d = 0; d < args.head_dim; d += 16) {
      _mm512_storeu_ps(out + i * stride + d, _mm512_setzero_ps());
    }
  }
  // What all see together, then what only later rows see.
  AddAllValues<T, N>(args.values, args.head_dim, 0, visible[0], scores, out);
  for (int i = 1; i < N; ++i) {
    if (visible[0] == visible[i]) continue;
    AddAllValues<T, 1>(
        args.values, args.head_dim, visible[0], visible[i], scores + i * kChunk, out + i * stride);
  }
}

// A tile of `size` query vectors, at most N.
template <typename T, int N = kQueryTile>
void RunTile(int32_t size, const ChunkArgs& args, int32_t first) {
  if (size == N) return ChunkTile<T, N>(args, first);
  if constexpr (N > 1) RunTile<T, N - 1>(size, args, first);
}

template <typename T>
void ChunkAll(const ChunkArgs& args) {
  const int32_t count = args.num_rows * args.group;
  const int32_t num_tiles = (count + kQueryTile - 1) / kQueryTile;
  for (int32_t t = 0; t < num_tiles; ++t) {
    const int32_t first = count * t / num_tiles;
    const int32_t size = count * (t + 1) / num_tiles - first;
    RunTile<T>(size, args, first);
  }
}

void Chunk(const ChunkArgs& args) {
  if (args.half) {
    ChunkAll<Half>(args);
  } else {
    ChunkAll<Float>(args);
  }
}

void Merge(float* into, const float* next, int64_t head_dim) {
  const __m512 old_max = _mm512_set1_ps(into[head_dim]);
  const __m512 new_max = _mm512_set1_ps(next[head_dim]);
  const __m512 max = _mm512_max_ps(old_max, new_max);
  const __m512 a = Exp(_mm512_sub_ps(old_max, max));
  const __m512 b = Exp(_mm512_sub_ps(new_max, max));
  for (int64_t d = 0; d < head_dim; d += 16) {
    const __m512 scaled = _mm512_mul_ps(_mm512_loadu_ps(into + d), a);
    _mm512_storeu_ps(into + d, _mm512_fmadd_ps(_mm512_loadu_ps(next + d), b, scaled));
  }
  into[head_dim] = _mm512_cvtss_f32(max);
  const __m512 sum = _mm512_mul_ps(_mm512_set1_ps(into[head_dim + 1]), a);
  into[head_dim + 1] =
      _mm512_cvtss_f32(_mm512_fmadd_ps(_mm512_set1_ps(next[head_dim + 1]), b, sum));
}

void Finish(const float* partial, int64_t head_dim, float* out) {
  const __m512 sum = _mm512_set1_ps(partial[head_dim + 1]);
  for (int64_t d = 0; d < head_dim; d += 16) {
    _mm512_storeu_ps(out + d, _mm512_div_ps(_mm512_loadu_ps(partial + d), sum));
  }
}

}  // namespace

const AttentionKernels kAttentionAvx512 = {Chunk, Merge, Finish};

}  // namespace paceline::kernels
