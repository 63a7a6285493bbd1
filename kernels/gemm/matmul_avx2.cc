// AVX2 kernels of the gemm family. Own -m flags: see kernels/README.md.
#include "kernels/gemm/matmul_simd.h"
#include "kernels/gemm/pair_dot.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {
namespace {

struct Lanes : Avx2 {
  static constexpr int kOneGroupRows = 4;
  static constexpr int kTwoGroupRows = 0;
  static constexpr int kFloatRows = 6;
  static I32 Products(Bytes u, Bytes s) { return PairProducts<Avx2>(u, s); }
  template <bool kNibbles>
  using Dot = PairDot<Avx2, kNibbles>;
};

}  // namespace

const GemmKernels kGemmAvx2 = TunedGemmKernels<Lanes>();

}  // namespace paceline::kernels
