// Philox in AVX-512. Own -m flags: see kernels/README.md.
#include "kernels/simd/lanes_avx512.h"
#include "worker/sample/philox_block_simd.h"

namespace paceline::worker {

const PhiloxBlockTable kPhiloxBlockAvx512 = {WordsAtLeast<kernels::Avx512>, Max64<kernels::Avx512>};

}  // namespace paceline::worker
