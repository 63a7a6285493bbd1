// Philox in AVX2. Own -m flags: see kernels/README.md.
#include "kernels/simd/lanes_avx2.h"
#include "worker/sample/philox_block_simd.h"

namespace paceline::worker {

const PhiloxBlockTable kPhiloxBlockAvx2 = {WordsAtLeast<kernels::Avx2>, Max64<kernels::Avx2>};

}  // namespace paceline::worker
