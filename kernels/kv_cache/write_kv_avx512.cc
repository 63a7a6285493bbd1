// AVX-512 row functions of the KV cache. Own -m flags: see kernels/README.md.
#include "kernels/kv_cache/write_kv_simd.h"
#include "kernels/simd/lanes_avx512.h"

namespace paceline::kernels {

const KvKernels kKvAvx512 = {ToHalf<Avx512>, ToInt8<Avx512>};

}  // namespace paceline::kernels
