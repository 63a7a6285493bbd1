// AVX-512 (without VNNI) kernels of the gemm family. Own -m flags: see kernels/README.md.
#include "kernels/gemm/matmul_simd.h"
#include "kernels/gemm/pair_dot.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {
namespace {

struct Lanes : Avx512 {
  static constexpr int kOneGroupRows = 6;
  static constexpr int kTwoGroupRows = 0;
  static constexpr int kFloatRows = 8;
  static I32 Products(Bytes u, Bytes s) { return PairProducts<Avx512>(u, s); }
  template <bool kNibbles>
  using Dot = PairDot<Avx512, kNibbles>;
};

}  // namespace

const GemmKernels kGemmAvx512 = TunedGemmKernels<Lanes>();

}  // namespace paceline::kernels
