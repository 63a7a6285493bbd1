// AVX-512 row functions of normalisation. Own -m flags: see kernels/README.md.
#include "kernels/norm/rms_norm_simd.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {

const NormKernels kNormAvx512 = {InverseRms<Avx512>, Scale<Avx512>, Add<Avx512>};

}  // namespace paceline::kernels
