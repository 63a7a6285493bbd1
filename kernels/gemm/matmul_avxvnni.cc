// AVX-VNNI kernels of the gemm family. Own -m flags: see kernels/README.md. The intrinsic is the
// one that AVX-512 with VNNI and VL has too: tests run this file so where AVX-VNNI is missing.
#include "kernels/gemm/matmul_simd.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {
namespace {

struct Lanes : Avx2 {
  static constexpr int kOneGroupRows = 4;
  static constexpr int kTwoGroupRows = 0;
  static constexpr int kFloatRows = 6;
  static I32 AddDots(I32 sum, Bytes u, Bytes s) {
    return {_mm256_dpbusd_epi32(sum.low, u.low, s.low),
            _mm256_dpbusd_epi32(sum.high, u.high, s.high)};
  }
  static I32 Products(Bytes u, Bytes s) { return AddDots(I32{}, u, s); }
  template <bool kNibbles>
  struct Dot {
    void Start(I32 integer) { sum = integer; }
    void Add(Bytes u, Bytes s) { sum = AddDots(sum, u, s); }
    I32 Sum() const { return sum; }
    I32 sum;
  };
};

}  // namespace

const GemmKernels kGemmAvxVnni = TunedGemmKernels<Lanes>();

}  // namespace paceline::kernels
