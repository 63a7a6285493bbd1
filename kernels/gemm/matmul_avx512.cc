// AVX-512 VNNI kernels of the gemm family. Compiled with its own -m flags: no std::, no inline
// functions of other headers (kernels/README.md).
//
// A tile is 16 rows of w times M rows of x; w's block is unpacked once for the M rows. Every output
// is one lane of one accumulator, and its operations are the same for every M:
//   int8:  acc = fma(d_w * d_x, float(dot), acc); acc = fma(min_w, s_x, acc)   per block of 32
//   float: acc = fma(w, x, acc)                                                per column
#include <immintrin.h>

#include "kernels/gemm/gemm_kernels.h"

namespace paceline::kernels {
namespace {

constexpr int kMaxTile = 8;             // rows of x per tile
constexpr int64_t kPanelBytes = 49152;  // of x: stays in L2 beside the weights while groups pass
constexpr int kPrefetchBytes = 2560;    // ahead in w

inline __m512 LoadHalf16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

inline void PrefetchBlock(const void* block, int bytes) {
  const char* const ahead = static_cast<const char*>(block) + kPrefetchBytes;
  for (int i = 0; i < bytes; i += 64) _mm_prefetch(ahead + i, _MM_HINT_T0);
}

inline void UnpackNibbles(const uint8_t* q, __m512i* v) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int j = 0; j < 4; ++j) {
    const __m512i packed = _mm512_loadu_si512(q + 64 * j);
    v[j] = _mm512_and_si512(packed, low);
    v[j + 4] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
  }
}

struct Q4_1 {
  using Block = PackedQ4_1;
  static constexpr bool kHasMin = true;
  static void Load(const Block& b, __m512i* v) { UnpackNibbles(b.q, v); }
  static __m512i Start(const ActivationBlock&) { return _mm512_setzero_si512(); }
  static __m512 Min(const Block& b) { return LoadHalf16(b.m); }
  // Stored byte or nibble -> weight.
  static __m512 Value(__m512 q, __m512 d, __m512 m) { return _mm512_fmadd_ps(q, d, m); }
};

struct Q4_0 {
  using Block = PackedQ4_0;
  static constexpr bool kHasMin = false;
  static void Load(const Block& b, __m512i* v) { UnpackNibbles(b.q, v); }
  static __m512i Start(const ActivationBlock& x) { return _mm512_set1_epi32(x.offset >> 4); }
  static __m512 Min(const Block&) { return _mm512_setzero_ps(); }
  static __m512 Value(__m512 q, __m512 d, __m512) {
    return _mm512_mul_ps(_mm512_sub_ps(q, _mm512_set1_ps(8)), d);
  }
};

struct Q8_0 {
  using Block = PackedQ8_0;
  static constexpr bool kHasMin = false;
  static void Load(const Block& b, __m512i* v) {
    for (int j = 0; j < 8; ++j) v[j] = _mm512_loadu_si512(b.q + 64 * j);
  }
  static __m512i Start(const ActivationBlock& x) { return _mm512_set1_epi32(x.offset); }
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

// Where the outputs of one tile go.
struct TileOutput {
  float* y;
  int64_t y_stride;
  const float* bias;
  bool accumulate;
  __mmask16 rows;
};

inline void StoreRow(const TileOutput& out, int i, __m512 sum) {
  float* const y = out.y + i * out.y_stride;
  if (out.bias != nullptr) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(out.rows, out.bias));
  if (out.accumulate) sum = _mm512_add_ps(_mm512_maskz_loadu_ps(out.rows, y), sum);
  _mm512_mask_storeu_ps(y, out.rows, sum);
}

template <typename Format, int M>
struct Int8Tile {
  static void Run(const GemmArgs& args, const void* group, int64_t first, const TileOutput& out) {
    const auto* w = static_cast<const typename Format::Block*>(group);
    const auto* x = static_cast<const ActivationBlock*>(args.x) + first * args.x_stride;
    const int64_t stride = args.x_stride;
    const int64_t num_blocks = args.k / kBlockK;
    __m512 acc[M];
    for (int i = 0; i < M; ++i) acc[i] = _mm512_setzero_ps();
    for (int64_t b = 0; b < num_blocks; ++b) {
      PrefetchBlock(w + b, sizeof(*w));
      __m512i v[8];
      Format::Load(w[b], v);
      const __m512 d = LoadHalf16(w[b].d);
      const __m512 min = Format::Min(w[b]);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const ActivationBlock& xb = x[i * stride + b];
        const char* const q = reinterpret_cast<const char*>(xb.q);
        __m512i dot = Format::Start(xb);
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
          dot = _mm512_dpbusd_epi32(
              dot, v[j], _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(q + 4 * j)));
        }
        acc[i] = _mm512_fmadd_ps(
            _mm512_mul_ps(d, _mm512_set1_ps(xb.d)), _mm512_cvtepi32_ps(dot), acc[i]);
        if (Format::kHasMin) acc[i] = _mm512_fmadd_ps(min, _mm512_set1_ps(xb.s), acc[i]);
      }
    }
    for (int i = 0; i < M; ++i) StoreRow(out, i, acc[i]);
  }
};

template <typename Format, int M>
struct FloatTile {
  static void Run(const GemmArgs& args, const void* group, int64_t first, const TileOutput& out) {
    const auto* w = static_cast<const typename Format::Block*>(group);
    const float* x = static_cast<const float*>(args.x) + first * args.x_stride;
    const int64_t num_blocks = args.k / kBlockK;
    const __m512i low = _mm512_set1_epi32(255);
    __m512 acc[M];
    for (int i = 0; i < M; ++i) acc[i] = _mm512_setzero_ps();
    for (int64_t b = 0; b < num_blocks; ++b) {
      __m512i v[8];
      Format::Load(w[b], v);
      const __m512 d = LoadHalf16(w[b].d);
      const __m512 min = Format::Min(w[b]);
      for (int j = 0; j < 8; ++j) {
        for (int t = 0; t < 4; ++t) {
          const __m512i q = _mm512_and_si512(_mm512_srli_epi32(v[j], 8 * t), low);
          const __m512 value = Format::Value(_mm512_cvtepi32_ps(q), d, min);
          const float* const column = x + b * kBlockK + 4 * j + t;
          for (int i = 0; i < M; ++i) {
            acc[i] = _mm512_fmadd_ps(value, _mm512_set1_ps(column[i * args.x_stride]), acc[i]);
          }
        }
      }
    }
    for (int i = 0; i < M; ++i) StoreRow(out, i, acc[i]);
  }
};

template <typename Format, int M>
struct PlainTile {
  static void Run(const GemmArgs& args, const void* group, int64_t first, const TileOutput& out) {
    const auto* w = static_cast<const typename Format::Element*>(group);
    const float* x = static_cast<const float*>(args.x) + first * args.x_stride;
    __m512 acc[M];
    for (int i = 0; i < M; ++i) acc[i] = _mm512_setzero_ps();
    for (int64_t j = 0; j < args.k; ++j) {
      _mm_prefetch(reinterpret_cast<const char*>(w + 16 * j) + kPrefetchBytes, _MM_HINT_T0);
      const __m512 value = Format::Load(w + 16 * j);
      for (int i = 0; i < M; ++i) {
        acc[i] = _mm512_fmadd_ps(value, _mm512_set1_ps(x[i * args.x_stride + j]), acc[i]);
      }
    }
    for (int i = 0; i < M; ++i) StoreRow(out, i, acc[i]);
  }
};

// Runs one tile of `size` rows.
template <template <typename, int> class Tile, typename Format>
void RunTile(
    int64_t size, const GemmArgs& args, const void* group, int64_t first, const TileOutput& out) {
  switch (size) {
    case 1:
      return Tile<Format, 1>::Run(args, group, first, out);
    case 2:
      return Tile<Format, 2>::Run(args, group, first, out);
    case 3:
      return Tile<Format, 3>::Run(args, group, first, out);
    case 4:
      return Tile<Format, 4>::Run(args, group, first, out);
    case 5:
      return Tile<Format, 5>::Run(args, group, first, out);
    case 6:
      return Tile<Format, 6>::Run(args, group, first, out);
    case 7:
      return Tile<Format, 7>::Run(args, group, first, out);
    case 8:
      return Tile<Format, 8>::Run(args, group, first, out);
    default:
      __builtin_unreachable();
  }
}

// All groups for all rows of x, a panel of x at a time; a group stays in L1 for its panel's tiles.
template <template <typename, int> class Tile, typename Format>
void Gemm(const GemmArgs& args, int64_t x_row_bytes) {
  int64_t panel = kPanelBytes / x_row_bytes / kMaxTile * kMaxTile;
  if (panel < kMaxTile) panel = kMaxTile;
  for (int64_t p = 0; p < args.m; p += panel) {
    const int64_t end = p + panel < args.m ? p + panel : args.m;
    const int64_t num_tiles = (end - p + kMaxTile - 1) / kMaxTile;
    for (int64_t g = 0; g < args.num_groups; ++g) {
      const void* group = static_cast<const char*>(args.w) + g * args.group_bytes;
      const int64_t rows_left = args.num_rows - g * kPackRows;
      TileOutput out;
      out.y_stride = args.y_stride;
      out.accumulate = args.accumulate;
      out.bias = args.bias == nullptr ? nullptr : args.bias + g * kPackRows;
      out.rows = static_cast<__mmask16>(rows_left >= kPackRows ? 0xffff : (1 << rows_left) - 1);
      // Tiles of even size: 9 rows are 5 + 4, not 8 + 1.
      for (int64_t t = 0; t < num_tiles; ++t) {
        const int64_t first = p + (end - p) * t / num_tiles;
        const int64_t size = p + (end - p) * (t + 1) / num_tiles - first;
        out.y = args.y + first * args.y_stride + g * kPackRows;
        RunTile<Tile, Format>(size, args, group, first, out);
      }
    }
  }
}

template <typename Format>
void Int8Kernel(const GemmArgs& args) {
  Gemm<Int8Tile, Format>(args, args.x_stride * static_cast<int64_t>(sizeof(ActivationBlock)));
}
template <typename Format>
void FloatKernel(const GemmArgs& args) {
  Gemm<FloatTile, Format>(args, args.x_stride * static_cast<int64_t>(sizeof(float)));
}
template <typename Format>
void PlainKernel(const GemmArgs& args) {
  Gemm<PlainTile, Format>(args, args.x_stride * static_cast<int64_t>(sizeof(float)));
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
    const float largest = _mm512_reduce_max_ps(_mm512_max_ps(a0, a1));
    if (bad != 0 || largest < 1e-30f) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(block.q), _mm256_setzero_si256());
      block.d = block.s = bad != 0 ? __builtin_nanf("") : 0.0f;
      block.offset = block.unused = 0;
      continue;
    }
    block.d = largest / 127.0f;
    const __m512 inverse = _mm512_set1_ps(1.0f / block.d);
    const __m512i q0 = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
    const __m512i q1 = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.q), _mm512_cvtepi32_epi8(q0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(block.q + 16), _mm512_cvtepi32_epi8(q1));
    const int32_t sum = _mm512_reduce_add_epi32(_mm512_add_epi32(q0, q1));
    block.s = block.d * static_cast<float>(sum);
    block.offset = -128 * sum;
    block.unused = 0;
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
