// The kernels of the active instruction set. Stateless. Private
// to kernels/.
#ifndef PACELINE_KERNELS_GEMM_GEMM_TABLES_H_
#define PACELINE_KERNELS_GEMM_GEMM_TABLES_H_

#include "kernels/dispatch.h"
#include "kernels/gemm/gemm_kernels.h"

namespace paceline::kernels {

inline const GemmKernels& ActiveGemmKernels() {
  return Select(IsaTables<GemmKernels>{.portable = &kGemmPortable,
                                       .avx2 = &kGemmAvx2,
                                       .avx512 = &kGemmAvx512,
                                       .avx512vnni = &kGemmAvx512Vnni,
                                       .avxvnni = &kGemmAvxVnni});
}

inline const Bf16Kernels& ActiveBf16Kernels() {
  return Select(
      IsaTables<Bf16Kernels>{&kBf16Portable, &kBf16Avx2, &kBf16Avx512, nullptr, &kBf16Avx512Bf16});
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_GEMM_TABLES_H_
