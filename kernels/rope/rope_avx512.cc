// AVX-512 functions of rotary embedding. Own -m flags: see kernels/README.md.
#include "kernels/rope/rope_simd.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {

const RopeKernels kRopeAvx512 = {TurnInterleaved<Avx512>, TurnHalves<Avx512>};

}  // namespace paceline::kernels
