// AVX-512 BF16 kernels of the matmul of bf16. Own -m flags: see kernels/README.md.
#include "kernels/gemm/bf16_simd.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {
namespace {

struct Lanes : Avx512 {
  static constexpr int kPairGroups = 2;
  static constexpr int kPairRows = 8;
  using Pair = uint32_t;
  static F32 PairMulAdd(Bytes w, Pair x, F32 acc) {
    const auto pairs = reinterpret_cast<__m512bh>(w.v);
    const auto two = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int32_t>(x)));
    return {_mm512_dpbf16_ps(acc.v, pairs, two)};
  }
};

}  // namespace

const Bf16Kernels kBf16Avx512Bf16 = {PairKernel<Lanes>, /*float_pairs=*/false};

}  // namespace paceline::kernels
