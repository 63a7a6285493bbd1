// AVX-512 VNNI kernels of the gemm family. Own -m flags: see kernels/README.md.
#include "kernels/gemm/matmul_simd.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {
namespace {

struct Lanes : Avx512 {
  static constexpr int kOneGroupRows = 8;
  static constexpr int kTwoGroupRows = 6;  // 2 x 12 accumulators leave 8 registers
  static constexpr int kFloatRows = 8;
  static I32 Products(Bytes u, Bytes s) {
    return {_mm512_dpbusd_epi32(_mm512_setzero_si512(), u.v, s.v)};
  }
  template <bool kNibbles>
  struct Dot {
    void Start(I32 integer) { sum = integer; }
    void Add(Bytes u, Bytes s) { sum.v = _mm512_dpbusd_epi32(sum.v, u.v, s.v); }
    I32 Sum() const { return sum; }
    I32 sum;
  };
};

}  // namespace

const GemmKernels kGemmAvx512Vnni = TunedGemmKernels<Lanes>();

}  // namespace paceline::kernels
