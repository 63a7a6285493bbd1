// AVX-512 VNNI kernels of the gemm family. Compiled with its own -m flags: no std::, no inline
// functions of other headers (kernels/README.md).
//
// A tile is one or two groups of 16 rows of w times M rows of x; w's block is unpacked once for the
// M rows, x's values are broadcast once for the groups. Every output is one lane of one
// accumulator, and its operations are the same in every tile:
//   int8:  acc = fma(d_w * d_x, float(dot), acc); acc = fma(min_w, s_x, acc)   per block of 32,
//          dot being exact: 8-bit products of all columns, and the wide column's high byte
//   float: acc = fma(w, x, acc)                                                per column
#include <immintrin.h>

#include "kernels/gemm/gemm_kernels.h"

namespace paceline::kernels {
namespace {

constexpr int kTwoGroupRows = 6;        // rows of x per tile: 2 x 12 accumulators leave 8 registers
constexpr int kOneGroupRows = 8;        // rows of x per tile of one group
constexpr int64_t kPanelBytes = 16384;  // of x: stays in L1 beside two groups of weights
constexpr int kStreamAhead = 8192;      // bytes ahead in w when one tile reads it all

inline __m512 LoadHalf16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

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
struct OperandPair {
  __m512i low;
  __m512i high;
};

inline OperandPair UnpackNibbles(const uint8_t* q, int j) {
  const __m512i mask = _mm512_set1_epi8(15);
  const __m512i packed = _mm512_loadu_si512(q + 64 * j);
  return {_mm512_and_si512(packed, mask), _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask)};
}

// Quad `quad` of a nibble format's block, as bytes.
inline __m512i NibbleQuad(const uint8_t* q, int32_t quad) {
  const __m512i packed = _mm512_loadu_si512(q + 64 * (quad & 3));
  return _mm512_and_si512(_mm512_srl_epi16(packed, _mm_cvtsi32_si128(quad & 4)),
                          _mm512_set1_epi8(15));
}

struct Q4_1 {
  using Block = PackedQ4_1;
  static constexpr bool kHasMin = true;
  static OperandPair Load(const Block& b, int j) { return UnpackNibbles(b.q, j); }
  static constexpr bool kNibbles = true;
  static __m512i Quad(const Block& b, int32_t quad) { return NibbleQuad(b.q, quad); }
  static __m512i Start(__m512i wide, const ActivationBlock&) { return wide; }
  static __m512 Min(const Block& b) { return LoadHalf16(b.m); }
  // Stored byte or nibble -> weight.
  static __m512 Value(__m512 q, __m512 d, __m512 m) { return _mm512_fmadd_ps(q, d, m); }
};

struct Q4_0 {
  using Block = PackedQ4_0;
  static constexpr bool kHasMin = false;
  static OperandPair Load(const Block& b, int j) { return UnpackNibbles(b.q, j); }
  static constexpr bool kNibbles = true;
  static __m512i Quad(const Block& b, int32_t quad) { return NibbleQuad(b.q, quad); }
  static __m512i Start(__m512i wide, const ActivationBlock& x) {
    return _mm512_add_epi32(wide, _mm512_set1_epi32(x.offset >> 4));
  }
  static __m512 Min(const Block&) { return _mm512_setzero_ps(); }
  static __m512 Value(__m512 q, __m512 d, __m512) {
    return _mm512_mul_ps(_mm512_sub_ps(q, _mm512_set1_ps(8)), d);
  }
};

struct Q8_0 {
  using Block = PackedQ8_0;
  static constexpr bool kHasMin = false;
  static OperandPair Load(const Block& b, int j) {
    return {_mm512_loadu_si512(b.q + 64 * j), _mm512_loadu_si512(b.q + 64 * (j + 4))};
  }
  static constexpr bool kNibbles = false;
  static __m512i Quad(const Block& b, int32_t quad) { return _mm512_loadu_si512(b.q + 64 * quad); }
  static __m512i Start(__m512i wide, const ActivationBlock& x) {
    return _mm512_add_epi32(wide, _mm512_set1_epi32(x.offset));
  }
  static __m512 Min(const Block&) { return _mm512_setzero_ps(); }
  static __m512 Value(__m512 q, __m512 d, __m512) {
    return _mm512_mul_ps(_mm512_sub_ps(q, _mm512_set1_ps(128)), d);
  }
};

struct F32 {
  using Element = float;
  static __m512 Load(const float* p) { return _mm512_loadu_ps(p); }
};
struct F16 {
  using Element = uint16_t;
  static __m512 Load(const uint16_t* p) { return LoadHalf16(p); }
};
struct BF16 {
  using Element = uint16_t;
  static __m512 Load(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
};

inline __m512i Broadcast4(const int8_t* q) {
  return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(q));
}

// The part of a dot product that the wide quad's high parts make: 16 times their products.
template <typename Format, bool kManyRows>
struct WideProduct {
  explicit WideProduct(const typename Format::Block& b) : block(b) {}
  __m512i Of(const ActivationBlock& x) const {
    const __m512i products = _mm512_dpbusd_epi32(
        _mm512_setzero_si512(), Format::Quad(block, x.wide_quad), Broadcast4(x.high));
    return _mm512_slli_epi32(products, 4);
  }
  const typename Format::Block& block;
};

// Nibbles in the upper half of a byte are 16 times their value. With many rows it pays to bring all
// there once.
template <typename Format>
requires(Format::kNibbles) struct WideProduct<Format, true> {
  explicit WideProduct(const typename Format::Block& b) : to_block(b.q - raised) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      _mm512_store_si512(raised + 64 * j, _mm512_slli_epi16(_mm512_loadu_si512(b.q + 64 * j), 4));
    }
  }
  __m512i Of(const ActivationBlock& x) const {
    const int64_t upper = -static_cast<int64_t>(x.wide_quad >> 2);  // all ones when in place
    const uint8_t* const at = raised + (to_block & upper) + 64 * (x.wide_quad & 3);
    const __m512i operand =
        _mm512_and_si512(_mm512_loadu_si512(at), _mm512_set1_epi8(static_cast<char>(0xf0)));
    return _mm512_dpbusd_epi32(_mm512_setzero_si512(), operand, Broadcast4(x.high));
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
inline void StoreOutputs(
    const GemmArgs& args, int64_t first_row, int64_t first, int m, const __m512* sums) {
  const int64_t left = args.num_rows - first_row;
  const __mmask16 lanes = left >= kPackRows ? 0xffff : static_cast<__mmask16>((1 << left) - 1);
  float* y = args.y + first * args.y_stride + first_row;
#pragma GCC unroll 8
  for (int i = 0; i < m; ++i) {
    __m512 sum = sums[i];
    if (args.bias != nullptr) {
      sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, args.bias + first_row));
    }
    if (args.accumulate) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, y), sum);
    _mm512_mask_storeu_ps(y, lanes, sum);
    y += args.y_stride;
  }
}

// Groups [group, group + G) of w against rows [first, first + M) of x.
template <typename Format, int G, int M>
struct Int8Tile {
  using Block = typename Format::Block;
  static int64_t Steps(int64_t k) { return k / kBlockK; }

  static void Run(const GemmArgs& args, int64_t group, int64_t first, Prefetcher<G> prefetcher) {
    const char* const w = static_cast<const char*>(args.w) + group * args.group_bytes;
    const auto* x = static_cast<const ActivationBlock*>(args.x) + first * args.x_stride;
    const int64_t stride = args.x_stride;
    const int64_t num_blocks = args.k / kBlockK;
    __m512 acc[G][M];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) acc[g][i] = _mm512_setzero_ps();
    }
    for (int64_t b = 0; b < num_blocks; ++b, ++x) {
      prefetcher.Step(sizeof(Block));
      const Block* blocks[G];
      __m512i dot[G][M];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        blocks[g] = reinterpret_cast<const Block*>(w + g * args.group_bytes) + b;
        const WideProduct<Format, (M > 2)> wide(*blocks[g]);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          dot[g][i] = Format::Start(wide.Of(x[i * stride]), x[i * stride]);
        }
      }
#pragma GCC unroll 8
      for (int j = 0; j < 4; ++j) {
        OperandPair v[G];
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) v[g] = Format::Load(*blocks[g], j);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          const __m512i low = Broadcast4(x[i * stride].q + 4 * j);
          const __m512i high = Broadcast4(x[i * stride].q + 16 + 4 * j);
#pragma GCC unroll 8
          for (int g = 0; g < G; ++g) {
            dot[g][i] = _mm512_dpbusd_epi32(dot[g][i], v[g].low, low);
            dot[g][i] = _mm512_dpbusd_epi32(dot[g][i], v[g].high, high);
          }
        }
      }
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        const __m512 d = LoadHalf16(blocks[g]->d);
        const __m512 min = Format::Min(*blocks[g]);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
          const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(x[i * stride].d));
          acc[g][i] = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dot[g][i]), acc[g][i]);
          if (Format::kHasMin) {
            acc[g][i] = _mm512_fmadd_ps(min, _mm512_set1_ps(x[i * stride].s), acc[g][i]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) StoreOutputs(args, (group + g) * kPackRows, first, M, acc[g]);
  }
};

template <typename Format, int G, int M>
struct FloatTile {
  static int64_t Steps(int64_t k) { return k / kBlockK; }
  static void Run(const GemmArgs& args, int64_t group, int64_t first, Prefetcher<G> prefetcher) {
    const auto* w = reinterpret_cast<const typename Format::Block*>(
        static_cast<const char*>(args.w) + group * args.group_bytes);
    const float* x = static_cast<const float*>(args.x) + first * args.x_stride;
    const int64_t num_blocks = args.k / kBlockK;
    const __m512i byte = _mm512_set1_epi32(255);
    __m512 acc[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) acc[i] = _mm512_setzero_ps();
    for (int64_t b = 0; b < num_blocks; ++b) {
      prefetcher.Step(sizeof(*w));
      const __m512 d = LoadHalf16(w[b].d);
      const __m512 min = Format::Min(w[b]);
      // Columns in order: the low operands of all four pairs, then the high ones.
      for (int j = 0; j < 8; ++j) {
        const OperandPair pair = Format::Load(w[b], j % 4);
        const __m512i v = j < 4 ? pair.low : pair.high;
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
          const __m512i q = _mm512_and_si512(_mm512_srli_epi32(v, 8 * t), byte);
          const __m512 value = Format::Value(_mm512_cvtepi32_ps(q), d, min);
          const float* const column = x + b * kBlockK + 4 * j + t;
#pragma GCC unroll 8
          for (int i = 0; i < M; ++i) {
            acc[i] = _mm512_fmadd_ps(value, _mm512_set1_ps(column[i * args.x_stride]), acc[i]);
          }
        }
      }
    }
    StoreOutputs(args, group * kPackRows, first, M, acc);
  }
};

template <typename Format, int G, int M>
struct PlainTile {
  static int64_t Steps(int64_t k) { return k; }
  static void Run(const GemmArgs& args, int64_t group, int64_t first, Prefetcher<G> prefetcher) {
    const auto* w = reinterpret_cast<const typename Format::Element*>(
        static_cast<const char*>(args.w) + group * args.group_bytes);
    const float* x = static_cast<const float*>(args.x) + first * args.x_stride;
    __m512 acc[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) acc[i] = _mm512_setzero_ps();
    for (int64_t j = 0; j < args.k; ++j) {
      prefetcher.Step(16 * sizeof(*w));
      const __m512 value = Format::Load(w + 16 * j);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        acc[i] = _mm512_fmadd_ps(value, _mm512_set1_ps(x[i * args.x_stride + j]), acc[i]);
      }
    }
    StoreOutputs(args, group * kPackRows, first, M, acc);
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
  const int64_t row_bytes = args.x_stride * static_cast<int64_t>(sizeof(ActivationBlock));
  if (args.m <= kOneGroupRows) {  // one pass over w, and one stream comes faster than two
    Gemm<Int8Tile, Format, 1, kOneGroupRows>(args, row_bytes);
  } else {
    Gemm<Int8Tile, Format, 2, kTwoGroupRows>(args, row_bytes);
  }
}
template <typename Format>
void FloatKernel(const GemmArgs& args) {
  Gemm<FloatTile, Format, 1, kOneGroupRows>(args,
                                            args.x_stride * static_cast<int64_t>(sizeof(float)));
}
template <typename Format>
void PlainKernel(const GemmArgs& args) {
  Gemm<PlainTile, Format, 1, kOneGroupRows>(args,
                                            args.x_stride * static_cast<int64_t>(sizeof(float)));
}

// The largest and the second largest of 32 values.
struct Largest {
  float first;
  float second;
};

inline Largest TwoLargest(__m512 a, __m512 b) {
  const __m512 first16 = _mm512_max_ps(a, b);
  const __m512 second16 = _mm512_min_ps(a, b);
  const __m256 f0 = _mm512_castps512_ps256(first16);
  const __m256 f1 = _mm512_extractf32x8_ps(first16, 1);
  const __m256 first8 = _mm256_max_ps(f0, f1);
  const __m256 second8 = _mm256_max_ps(
      _mm256_min_ps(f0, f1),
      _mm256_max_ps(_mm512_castps512_ps256(second16), _mm512_extractf32x8_ps(second16, 1)));
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

void QuantizeRow(const float* x, int64_t k, ActivationBlock* out) {
  const __m512 infinity = _mm512_set1_ps(__builtin_inff());
  for (int64_t b = 0; b < k / kBlockK; ++b) {
    const __m512 x0 = _mm512_loadu_ps(x + b * kBlockK);
    const __m512 x1 = _mm512_loadu_ps(x + b * kBlockK + 16);
    const __m512 a0 = _mm512_abs_ps(x0);
    const __m512 a1 = _mm512_abs_ps(x1);
    ActivationBlock& block = out[b];
    // Not less than infinity: infinite or NaN.
    const unsigned bad = _mm512_cmp_ps_mask(a0, infinity, _CMP_NLT_UQ) |
                         _mm512_cmp_ps_mask(a1, infinity, _CMP_NLT_UQ);
    const Largest largest = TwoLargest(a0, a1);
    if (bad != 0 || largest.first < 1e-30f) {
      FillBlock(&block, bad != 0 ? __builtin_nanf("") : 0.0f);
      continue;
    }
    const __m512 first = _mm512_set1_ps(largest.first);
    const unsigned at_first = static_cast<unsigned>(_mm512_cmp_ps_mask(a0, first, _CMP_EQ_OQ)) |
                              static_cast<unsigned>(_mm512_cmp_ps_mask(a1, first, _CMP_EQ_OQ))
                                  << 16;
    const float least = largest.first / 16;
    block.d = (largest.second > least ? largest.second : least) / 127.0f;
    const float inverse_d = 1.0f / block.d;
    const __m512 inverse = _mm512_set1_ps(inverse_d);
    const __m512i n0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
    const __m512i n1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.q), _mm512_cvtepi32_epi8(n0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.q + 16), _mm512_cvtepi32_epi8(n1));
    const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(n0, n1));
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

}  // namespace

const GemmKernels kGemmAvx512 = {
    .int8 = {nullptr, nullptr, nullptr, Int8Kernel<Q8_0>, Int8Kernel<Q4_0>, Int8Kernel<Q4_1>},
    .float32 = {PlainKernel<F32>,
                PlainKernel<F16>,
                PlainKernel<BF16>,
                FloatKernel<Q8_0>,
                FloatKernel<Q4_0>,
                FloatKernel<Q4_1>},
    .quantize_row = QuantizeRow,
};

}  // namespace paceline::kernels
