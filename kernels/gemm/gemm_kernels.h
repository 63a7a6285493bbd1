// Memory layouts and per-instruction-set function tables of the gemm family. Plain data only: tuned
// files include this, so it must hold no inline function and no std:: include (see
// kernels/README.md). Private to kernels/.
#ifndef PACELINE_KERNELS_GEMM_GEMM_KERNELS_H_
#define PACELINE_KERNELS_GEMM_GEMM_KERNELS_H_

#include <stdint.h>

namespace paceline::kernels {

// kBF16Pairs: bf16 as kBF16 in a file, multiplied with inputs rounded to bf16.
enum class WeightFormat { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kBF16Pairs };

constexpr int64_t kPackRows = 16;              // rows interleaved in a packed group
constexpr int64_t kBlockK = 32;                // columns of a quantised block
constexpr int64_t kWeightChunkBytes = 262144;  // of w that many rows of x pass before the next

// 32 activations, x[i] = d * n[i]. All n but one are within +-127; that of the largest activation
// has 12, so that it does not cost the others their precision: n[i] = q[i] + 16 * high[i % 4] in
// the wide quad (i / 4), q[i] elsewhere.
struct alignas(64) ActivationBlock {
  int8_t q[32];
  float d;
  float s;         // d * sum(n)
  int32_t offset;  // -128 * sum(n): undoes the bias of unsigned 8-bit weights
  int8_t high[4];  // three of them are 0
  int32_t wide_quad;
};

// 16 rows of bf16 pairs: [k / 2][16][2]; subnormal weights are 0.

// 16 rows x 32 columns of Q4_1: byte [j][r][t] holds column 4j+t in its low and 16+4j+t in its high
// nibble; value = d[r] * nibble + m[r]. Same bytes as 16 GGUF blocks, in another order.
struct PackedQ4_1 {
  uint8_t q[256];
  uint16_t d[16];  // f16
  uint16_t m[16];  // f16
};

// As PackedQ4_1 with value = d[r] * (nibble - 8).
struct PackedQ4_0 {
  uint8_t q[256];
  uint16_t d[16];
};

// 16 rows x 32 columns of Q8_0: byte [j][r][t] is column 4j+t plus 128; value = d[r] * (byte -
// 128).
struct PackedQ8_0 {
  uint8_t q[512];
  uint16_t d[16];
};

// One call computes `num_groups` groups of 16 consecutive rows of w for `m` rows of x.
// The order of the float operations of one output never depends on m, num_groups or the tile.
struct GemmArgs {
  const void* w;        // first packed group
  int64_t group_bytes;  // bytes from one group to the next
  int64_t num_groups;
  int64_t num_rows;  // valid rows of w from the first group on (the last group may be padded)
  int64_t k;
  const void* x;     // ActivationBlock[m][k/32], float[m][x_stride] or pairs [m][k/2]
  int64_t x_stride;  // elements (blocks, floats or pairs) between rows of x
  int64_t m;
  float* y;  // y[i * y_stride + r]
  int64_t y_stride;
  const float* bias;  // [num_rows] or null
  bool accumulate;    // add to y instead of overwriting it
};

struct GemmKernels {
  // Indexed by WeightFormat; null where the pair does not exist (int8 with float weights).
  void (*int8[7])(const GemmArgs&);
  void (*float32[7])(const GemmArgs&);
  void (*quantize_row)(const float* x, int64_t k, ActivationBlock* out);
};

// Two activations rounded to bf16, as numbers.
struct FloatPair {
  float first;
  float second;
};

struct Bf16Kernels {
  void (*matmul)(const GemmArgs&);
  bool float_pairs;  // x is FloatPair[m][k/2], not two bf16 in 32 bits each
};

extern const Bf16Kernels kBf16Portable;
extern const Bf16Kernels kBf16Avx2;
extern const Bf16Kernels kBf16Avx512;
extern const Bf16Kernels kBf16Avx512Bf16;

extern const GemmKernels kGemmPortable;
extern const GemmKernels kGemmAvx2;
extern const GemmKernels kGemmAvxVnni;
extern const GemmKernels kGemmAvx512;
extern const GemmKernels kGemmAvx512Vnni;

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_GEMM_KERNELS_H_
