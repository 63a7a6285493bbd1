// AVX2 functions of rotary embedding. Own -m flags: see kernels/README.md.
#include "kernels/rope/rope_simd.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {

const RopeKernels kRopeAvx2 = {TurnInterleaved<Avx2>, TurnHalves<Avx2>};

}  // namespace paceline::kernels
