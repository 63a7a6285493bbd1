// The gemm family over 16 lanes, one a row of w. Only for tuned files (kernels/README.md).
//
// V is Avx2 or Avx512 with what matmul_<isa>.cc adds to it:
//   kOneGroupRows, kTwoGroupRows (0: never two groups), kFloatRows: rows of x per tile
//   Products(u, s): per lane, the sum of four bytes' products; exact when three of them are 0
//   Dot<kNibbles>: per lane, Start(integer) + the products of all Add(u, s), then Sum(); exact for
//     eight of them with |s| <= 127 and u below 16 if kNibbles
//
// A tile is one or two groups of 16 rows of w times M rows of x; w's block is unpacked once for the
// M rows, x's values are broadcast once for the groups. Every output is one lane of one
// accumulator, and its operations are the same in every tile and for every V:
//   int8:  acc = fma(d_w * d_x, float(dot), acc); acc = fma(min_w, s_x, acc)   per block of 32,
//          dot being exact: 8-bit products of all columns, and the wide column's high byte
//   float: acc = fma(w, x, acc)                                                per column
#ifndef PACELINE_KERNELS_GEMM_MATMUL_SIMD_H_
#define PACELINE_KERNELS_GEMM_MATMUL_SIMD_H_

#include <immintrin.h>

#include "kernels/gemm/gemm_kernels.h"

namespace paceline::kernels {
namespace {

constexpr int64_t kPanelBytes = 16384;  // of x: stays in L1 beside two groups of weights
constexpr int kStreamAhead = 8192;      // bytes ahead in w when one tile reads it all

// Brings weights closer while a tile over G groups of them runs.
template <int G>
struct Prefetcher;

// A tile of one group is usually alone with its weights and bound by memory: it reads its own
// stream ahead, into L2, because L1 has too few miss buffers to keep memory busy.
template <>
struct Prefetcher<1> {
  Prefetcher(const char* w, int64_t, int64_t, int64_t, int64_t) : next(w + kStreamAhead) {}
  // `bytes` of w were used.
  void Step(int bytes) {
    for (int i = 0; i < bytes; i += 64) _mm_prefetch(next + i, _MM_HINT_T1);
    next += bytes;
  }
  const char* next;
};

// One of several tiles over the same two groups fetches its share of the groups that follow, into
// L1.
template <>
struct Prefetcher<2> {
  Prefetcher(const char* w, int64_t bytes, int64_t steps, int64_t tile, int64_t num_tiles) {
    lines = (bytes / (64 * steps) + num_tiles) / num_tiles;
    next = w + bytes + tile * lines * 64 * steps;
    if (next >= w + 2 * bytes) lines = 0;
  }
  void Step(int) {
    for (int64_t i = 0; i < lines; ++i, next += 64) _mm_prefetch(next, _MM_HINT_T0);
  }
  const char* next;
  int64_t lines;
};

// Operands j and j + 4 of a block: 16 rows x 4 columns as bytes, columns 4j.. and 16 + 4j...
template <typename V>
struct OperandPair {
  typename V::Bytes low;
  typename V::Bytes high;
};

template <typename V>
OperandPair<V> UnpackNibbles(const uint8_t* q, int j) {
  const typename V::Bytes packed = V::LoadBytes(q + 64 * j);
  return {V::And(packed, 15), V::And(V::template ShiftRight16<4>(packed), 15)};
}

// Quad `quad` of a nibble format's block, as bytes.
template <typename V>
typename V::Bytes NibbleQuad(const uint8_t* q, int32_t quad) {
  return V::And(V::ShiftRight16(V::LoadBytes(q + 64 * (quad & 3)), quad & 4), 15);
}

template <typename Lanes>
struct Q4_1 {
  using V = Lanes;
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Block = PackedQ4_1;
  static constexpr bool kHasMin = true;
  static constexpr bool kNibbles = true;
  static OperandPair<V> Load(const Block& b, int j) { return UnpackNibbles<V>(b.q, j); }
  static typename V::Bytes Quad(const Block& b, int32_t quad) { return NibbleQuad<V>(b.q, quad); }
  static I32 Start(I32 wide, const ActivationBlock&) { return wide; }
  static F32 Min(const Block& b) { return V::LoadHalf(b.m); }
  // Stored byte or nibble -> weight.
  static F32 Value(F32 q, F32 d, F32 m) { return V::MulAdd(q, d, m); }
};

template <typename Lanes>
struct Q4_0 {
  using V = Lanes;
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Block = PackedQ4_0;
  static constexpr bool kHasMin = false;
  static constexpr bool kNibbles = true;
  static OperandPair<V> Load(const Block& b, int j) { return UnpackNibbles<V>(b.q, j); }
  static typename V::Bytes Quad(const Block& b, int32_t quad) { return NibbleQuad<V>(b.q, quad); }
  static I32 Start(I32 wide, const ActivationBlock& x) { return wide + V::AllInt(x.offset >> 4); }
  static F32 Min(const Block&) { return V::All(0); }
  static F32 Value(F32 q, F32 d, F32) { return (q - V::All(8)) * d; }
};

template <typename Lanes>
struct Q8_0 {
  using V = Lanes;
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  using Block = PackedQ8_0;
  static constexpr bool kHasMin = false;
  static constexpr bool kNibbles = false;
  static OperandPair<V> Load(const Block& b, int j) {
    return {V::LoadBytes(b.q + 64 * j), V::LoadBytes(b.q + 64 * (j + 4))};
  }
  static typename V::Bytes Quad(const Block& b, int32_t quad) {
    return V::LoadBytes(b.q + 64 * quad);
  }
  static I32 Start(I32 wide, const ActivationBlock& x) { return wide + V::AllInt(x.offset); }
  static F32 Min(const Block&) { return V::All(0); }
  static F32 Value(F32 q, F32 d, F32) { return (q - V::All(128)) * d; }
};

template <typename Lanes>
struct WeightsF32 {
  using V = Lanes;
  using Element = float;
  static typename V::F32 Load(const float* p) { return V::Load(p); }
};
template <typename Lanes>
struct WeightsF16 {
  using V = Lanes;
  using Element = uint16_t;
  static typename V::F32 Load(const uint16_t* p) { return V::LoadHalf(p); }
};
template <typename Lanes>
struct WeightsBf16 {
  using V = Lanes;
  using Element = uint16_t;
  static typename V::F32 Load(const uint16_t* p) { return V::LoadBfloat16(p); }
};

// The part of a dot product that the wide quad's high parts make: 16 times their products.
template <typename Format, bool kManyRows>
struct WideProduct {
  using V = typename Format::V;
  explicit WideProduct(const typename Format::Block& b) : block(b) {}
  typename V::I32 Of(const ActivationBlock& x) const {
    return V::template ShiftLeft<4>(
        V::Products(Format::Quad(block, x.wide_quad), V::AllBytes(x.high)));
  }
  const typename Format::Block& block;
};

// Nibbles in the upper half of a byte are 16 times their value. With many rows it pays to bring all
// there once.
template <typename Format>
requires(Format::kNibbles) struct WideProduct<Format, true> {
  using V = typename Format::V;
  explicit WideProduct(const typename Format::Block& b) : to_block(b.q - raised) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      V::StoreBytes(raised + 64 * j, V::template ShiftLeft16<4>(V::LoadBytes(b.q + 64 * j)));
    }
  }
  typename V::I32 Of(const ActivationBlock& x) const {
    const int64_t upper = -static_cast<int64_t>(x.wide_quad >> 2);  // all ones when in place
    const uint8_t* const at = raised + (to_block & upper) + 64 * (x.wide_quad & 3);
    return V::Products(V::And(V::LoadBytes(at), 0xf0), V::AllBytes(x.high));
  }
  alignas(64) uint8_t raised[256];
  int64_t to_block;
};

// The block of a row's 32 zeros, or NaNs.
inline void FillBlock(ActivationBlock* block, float value) {
  __builtin_memset(block, 0, sizeof(*block));
  block->d = block->s = value;
}

// Stores the sums of rows [first_row, first_row + 16) of w and rows [first, first + m) of x.
template <typename V>
void StoreOutputs(
    const GemmArgs& args, int64_t first_row, int64_t first, int m, const typename V::F32* sums) {
  const int64_t left = args.num_rows - first_row;
  float* y = args.y + first * args.y_stride + first_row;
#pragma GCC unroll 8
  for (int i = 0; i < m; ++i) {
    typename V::F32 sum = sums[i];
    if (args.bias != nullptr) sum = sum + V::LoadFirst(args.bias + first_row, left);
    if (args.accumulate) sum = V::LoadFirst(y, left) + sum;
    V::StoreFirst(y, sum, left);
    y += args.y_stride;
  }
}

// Groups [group, group + G) of w against rows [first, first + M) of x.
template <typename Format, int G, int M>
struct Int8Tile {
  using V = typename Format::V;
  using F32 = typename V::F32;
  using Block = typename Format::Block;
  static int64_t Steps(int64_t k) { return k / kBlockK; }

  static void Run(const GemmArgs& args, int64_t group, int64_t first, Prefetcher<G> prefetcher) {
    const char* const w = static_cast<const char*>(args.w) + group * args.group_bytes;
    const auto* x = static_cast<const ActivationBlock*>(args.x) + first * args.x_stride;
    const int64_t stride = args.x_stride;
    const int64_t num_blocks = args.k / kBlockK;
    F32 acc[G][M];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) acc[g][i] = V::All(0);
    }
    for (int64_t b = 0; b < num_blocks; ++b, ++x) {
      prefetcher.Step(sizeof(Block));
      const Block* blocks[G];
      typename V::template Dot<Format::kNibbles> dot[G][M];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        blocks[g] = reinterpret_cast<const Block*>(w + g * args.group_bytes) + b;
        const WideProduct<Format, (M > 2)> wide(*blocks[g]);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          dot[g][i].Start(Format::Start(wide.Of(x[i * stride]), x[i * stride]));
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < 4; ++j) {
        OperandPair<V> v[G];
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) v[g] = Format::Load(*blocks[g], j);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          const typename V::Bytes low = V::AllBytes(x[i * stride].q + 4 * j);
          const typename V::Bytes high = V::AllBytes(x[i * stride].q + 16 + 4 * j);
#pragma GCC unroll 8
          for (int g = 0; g < G; ++g) {
            dot[g][i].Add(v[g].low, low);
            dot[g][i].Add(v[g].high, high);
          }
        }
      }
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const F32 d = V::LoadHalf(blocks[g]->d);
        const F32 min = Format::Min(*blocks[g]);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          const F32 scale = d * V::All(x[i * stride].d);
          acc[g][i] = V::MulAdd(scale, V::ToFloat(dot[g][i].Sum()), acc[g][i]);
          if (Format::kHasMin) {
            acc[g][i] = V::MulAdd(min, V::All(x[i * stride].s), acc[g][i]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) StoreOutputs<V>(args, (group + g) * kPackRows, first, M, acc[g]);
  }
};

template <typename Format, int G, int M>
struct FloatTile {
  using V = typename Format::V;
  using F32 = typename V::F32;
  static int64_t Steps(int64_t k) { return k / kBlockK; }
  static void Run(const GemmArgs& args, int64_t group, int64_t first, Prefetcher<G> prefetcher) {
    const auto* w = reinterpret_cast<const typename Format::Block*>(
        static_cast<const char*>(args.w) + group * args.group_bytes);
    const float* x = static_cast<const float*>(args.x) + first * args.x_stride;
    const int64_t num_blocks = args.k / kBlockK;
    F32 acc[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) acc[i] = V::All(0);
    for (int64_t b = 0; b < num_blocks; ++b) {
      prefetcher.Step(sizeof(*w));
      const F32 d = V::LoadHalf(w[b].d);
      const F32 min = Format::Min(w[b]);
      // Columns in order: the low operands of all four pairs, then the high ones.
      for (int j = 0; j < 8; ++j) {
        const OperandPair<V> pair = Format::Load(w[b], j % 4);
        const typename V::Bytes v = j < 4 ? pair.low : pair.high;
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
          const F32 value = Format::Value(V::ToFloat(V::Byte(v, t)), d, min);
          const float* const column = x + b * kBlockK + 4 * j + t;
#pragma GCC unroll 8
          for (int i = 0; i < M; ++i) {
            acc[i] = V::MulAdd(value, V::All(column[i * args.x_stride]), acc[i]);
          }
        }
      }
    }
    StoreOutputs<V>(args, group * kPackRows, first, M, acc);
  }
};

template <typename Format, int G, int M>
struct PlainTile {
  using V = typename Format::V;
  using F32 = typename V::F32;
  static int64_t Steps(int64_t k) { return k; }
  static void Run(const GemmArgs& args, int64_t group, int64_t first, Prefetcher<G> prefetcher) {
    const auto* w = reinterpret_cast<const typename Format::Element*>(
        static_cast<const char*>(args.w) + group * args.group_bytes);
    const float* x = static_cast<const float*>(args.x) + first * args.x_stride;
    F32 acc[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) acc[i] = V::All(0);
    for (int64_t j = 0; j < args.k; ++j) {
      prefetcher.Step(16 * sizeof(*w));
      const F32 value = Format::Load(w + 16 * j);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        acc[i] = V::MulAdd(value, V::All(x[i * args.x_stride + j]), acc[i]);
      }
    }
    StoreOutputs<V>(args, group * kPackRows, first, M, acc);
  }
};

// Runs one tile of `size` rows of x.
template <template <typename, int, int> class Tile, typename Format, int G, int kMaxRows>
void RunTile(int64_t size,
             const GemmArgs& args,
             int64_t group,
             int64_t first,
             const Prefetcher<G>& prefetcher) {
  switch (size) {
    case 1:
      return Tile<Format, G, 1>::Run(args, group, first, prefetcher);
    case 2:
      return Tile<Format, G, 2>::Run(args, group, first, prefetcher);
    case 3:
      return Tile<Format, G, 3>::Run(args, group, first, prefetcher);
    case 4:
      return Tile<Format, G, 4>::Run(args, group, first, prefetcher);
    case 5:
      return Tile<Format, G, 5>::Run(args, group, first, prefetcher);
    case 6:
      return Tile<Format, G, 6>::Run(args, group, first, prefetcher);
    case 7:
      if constexpr (kMaxRows >= 7) return Tile<Format, G, 7>::Run(args, group, first, prefetcher);
      break;
    case 8:
      if constexpr (kMaxRows >= 8) return Tile<Format, G, 8>::Run(args, group, first, prefetcher);
      break;
  }
  __builtin_unreachable();
}

// Where part `part` of `num_parts` nearly equal parts of [begin, end) starts.
inline int64_t PartStart(int64_t begin, int64_t end, int64_t part, int64_t num_parts) {
  return begin + (end - begin) * part / num_parts;
}

// All rows of x from `begin` to `end` against G groups of w, in tiles of even size: 9 rows are 5 +
// 4, not 8 + 1.
template <template <typename, int, int> class Tile, typename Format, int G, int kMaxRows>
void RunRows(const GemmArgs& args, int64_t group, int64_t begin, int64_t end) {
  const int64_t num_tiles = (end - begin + kMaxRows - 1) / kMaxRows;
  for (int64_t t = 0; t < num_tiles; ++t) {
    const int64_t first = PartStart(begin, end, t, num_tiles);
    const int64_t size = PartStart(begin, end, t + 1, num_tiles) - first;
    const char* const w = static_cast<const char*>(args.w) + group * args.group_bytes;
    const Prefetcher<G> prefetcher(
        w, G * args.group_bytes, Tile<Format, G, 1>::Steps(args.k), t, num_tiles);
    RunTile<Tile, Format, G, kMaxRows>(size, args, group, first, prefetcher);
  }
}

// All groups for all rows of x, a panel of x at a time; a group stays in L1 for its panel's tiles.
template <template <typename, int, int> class Tile, typename Format, int G, int kMaxRows>
void Gemm(const GemmArgs& args, int64_t x_row_bytes) {
  int64_t panel_rows = kPanelBytes / x_row_bytes / kMaxRows * kMaxRows;
  if (panel_rows < kMaxRows) panel_rows = kMaxRows;
  const int64_t num_panels = (args.m + panel_rows - 1) / panel_rows;
  for (int64_t p = 0; p < num_panels; ++p) {
    const int64_t begin = PartStart(0, args.m, p, num_panels);
    const int64_t end = PartStart(0, args.m, p + 1, num_panels);
    int64_t group = 0;
    for (; group + G <= args.num_groups; group += G) {
      RunRows<Tile, Format, G, kMaxRows>(args, group, begin, end);
    }
    for (; group < args.num_groups; ++group) {
      RunRows<Tile, Format, 1, kMaxRows>(args, group, begin, end);
    }
  }
}

template <typename Format>
void Int8Kernel(const GemmArgs& args) {
  using V = typename Format::V;
  const int64_t row_bytes = args.x_stride * static_cast<int64_t>(sizeof(ActivationBlock));
  if constexpr (V::kTwoGroupRows > 0) {
    // Up to kOneGroupRows it is one pass over w, and one stream comes faster than two.
    if (args.m > V::kOneGroupRows) {
      return Gemm<Int8Tile, Format, 2, V::kTwoGroupRows>(args, row_bytes);
    }
  }
  Gemm<Int8Tile, Format, 1, V::kOneGroupRows>(args, row_bytes);
}
template <typename Format>
void FloatKernel(const GemmArgs& args) {
  Gemm<FloatTile, Format, 1, Format::V::kFloatRows>(
      args, args.x_stride * static_cast<int64_t>(sizeof(float)));
}
template <typename Format>
void PlainKernel(const GemmArgs& args) {
  Gemm<PlainTile, Format, 1, Format::V::kFloatRows>(
      args, args.x_stride * static_cast<int64_t>(sizeof(float)));
}

// The largest and the second largest of 32 values.
struct Largest {
  float first;
  float second;
};

template <typename V>
Largest TwoLargest(typename V::F32 a, typename V::F32 b) {
  const typename V::F32 first16 = V::Max(a, b);
  const typename V::F32 second16 = V::Min(a, b);
  const __m256 f0 = V::LowHalf(first16);
  const __m256 f1 = V::HighHalf(first16);
  const __m256 first8 = _mm256_max_ps(f0, f1);
  const __m256 second8 = _mm256_max_ps(_mm256_min_ps(f0, f1),
                                       _mm256_max_ps(V::LowHalf(second16), V::HighHalf(second16)));
  __m128 first = _mm256_castps256_ps128(first8);
  __m128 second = _mm256_castps256_ps128(second8);
  const auto fold = [&](__m128 other_first, __m128 other_second) {
    second = _mm_max_ps(_mm_min_ps(first, other_first), _mm_max_ps(second, other_second));
    first = _mm_max_ps(first, other_first);
  };
  fold(_mm256_extractf128_ps(first8, 1), _mm256_extractf128_ps(second8, 1));
  fold(_mm_permute_ps(first, 0x4e), _mm_permute_ps(second, 0x4e));
  fold(_mm_permute_ps(first, 0xb1), _mm_permute_ps(second, 0xb1));
  return {_mm_cvtss_f32(first), _mm_cvtss_f32(second)};
}

template <typename V>
void QuantizeRow(const float* x, int64_t k, ActivationBlock* out) {
  using F32 = typename V::F32;
  using I32 = typename V::I32;
  const F32 infinity = V::All(__builtin_inff());
  for (int64_t b = 0; b < k / kBlockK; ++b) {
    const F32 x0 = V::Load(x + b * kBlockK);
    const F32 x1 = V::Load(x + b * kBlockK + 16);
    const F32 a0 = V::Abs(x0);
    const F32 a1 = V::Abs(x1);
    ActivationBlock& block = out[b];
    const unsigned bad = V::NotLess(a0, infinity) | V::NotLess(a1, infinity);
    const Largest largest = TwoLargest<V>(a0, a1);
    if (bad != 0 || largest.first < 1e-30f) {
      FillBlock(&block, bad != 0 ? __builtin_nanf("") : 0.0f);
      continue;
    }
    const F32 first = V::All(largest.first);
    const unsigned at_first = V::Equal(a0, first) | V::Equal(a1, first) << 16;
    const float least = largest.first / 16;
    block.d = (largest.second > least ? largest.second : least) / 127.0f;
    const float inverse_d = 1.0f / block.d;
    const F32 inverse = V::All(inverse_d);
    const I32 n0 = V::ToInt(x0 * inverse);
    const I32 n1 = V::ToInt(x1 * inverse);
    V::StoreInt8(block.q, n0);
    V::StoreInt8(block.q + 16, n1);
    const int32_t sum = V::ReduceAdd(n0 + n1);
    block.s = block.d * static_cast<float>(sum);
    block.offset = -128 * sum;
    const int wide = __builtin_ctz(at_first);
    const int32_t n = _mm_cvtss_si32(_mm_set_ss(x[b * kBlockK + wide] * inverse_d));
    const int32_t high = (n + 8) >> 4;
    block.q[wide] = static_cast<int8_t>(n - 16 * high);
    const uint32_t slots = (static_cast<uint32_t>(high) & 255) << wide % 4 * 8;
    __builtin_memcpy(block.high, &slots, sizeof(slots));
    block.wide_quad = wide / 4;
  }
}

template <typename V>
constexpr GemmKernels TunedGemmKernels() {
  return {
      .int8 = {nullptr,
               nullptr,
               nullptr,
               Int8Kernel<Q8_0<V>>,
               Int8Kernel<Q4_0<V>>,
               Int8Kernel<Q4_1<V>>},
      .float32 = {PlainKernel<WeightsF32<V>>,
                  PlainKernel<WeightsF16<V>>,
                  PlainKernel<WeightsBf16<V>>,
                  FloatKernel<Q8_0<V>>,
                  FloatKernel<Q4_0<V>>,
                  FloatKernel<Q4_1<V>>},
      .quantize_row = QuantizeRow<V>,
  };
}

}  // namespace
}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_MATMUL_SIMD_H_
