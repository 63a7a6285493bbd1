// AVX2 row functions of the KV cache. Own -m flags: see kernels/README.md.
#include "kernels/kv_cache/write_kv_simd.h"
#include "kernels/simd/lanes_avx2.h"

namespace paceline::kernels {

const KvKernels kKvAvx2 = {ToHalf<Avx2>, ToInt8<Avx2>};

}  // namespace paceline::kernels
