// AVX2 kernels of the matmul of bf16. Own -m flags: see kernels/README.md.
#include "kernels/gemm/bf16_simd.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {
namespace {

struct Lanes : Avx2 {
  static constexpr int kPairGroups = 1;
  static constexpr int kPairRows = 3;
  using Pair = FloatPair;
  static F32 PairMulAdd(Bytes w, Pair x, F32 acc) {
    const F32 sum = MulAdd(HighBfloat16(w), All(x.second), acc);
    return MulAdd(LowBfloat16(w), All(x.first), sum);
  }
};

}  // namespace

const Bf16Kernels kBf16Avx2 = {PairKernel<Lanes>, /*float_pairs=*/true};

}  // namespace paceline::kernels
