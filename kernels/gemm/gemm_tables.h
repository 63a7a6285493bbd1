// The kernels of the active instruction set. Stateless. Private
// to kernels/.
#ifndef PACELINE_KERNELS_GEMM_GEMM_TABLES_H_
#define PACELINE_KERNELS_GEMM_GEMM_TABLES_H_

#include "kernels/dispatch.h"
#include "kernels/gemm/gemm_kernels.h"

namespace paceline::kernels {

inline const GemmKernels& ActiveGemmKernels() {
  return Select(IsaTables<GemmKernels>{&kGemmPortable, &kGemmAvx2, &kGemmAvx512, &kGemmAvx512Vnni});
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_GEMM_TABLES_H_
