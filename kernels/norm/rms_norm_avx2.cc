// AVX2 row functions of normalisation. Own -m flags: see kernels/README.md.
#include "kernels/norm/rms_norm_simd.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {

const NormKernels kNormAvx2 = {InverseRms<Avx2>, Scale<Avx2>, Add<Avx2>};

}  // namespace paceline::kernels
