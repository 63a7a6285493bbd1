// What the files of gemm share, and the kernels of the active instruction set. Stateless. Private
// to kernels/.
#ifndef PACELINE_KERNELS_GEMM_GEMM_TABLES_H_
#define PACELINE_KERNELS_GEMM_GEMM_TABLES_H_

#include "kernels/dispatch.h"
#include "kernels/gemm/gemm_kernels.h"
#include "kernels/gemm/matmul.h"

namespace paceline::kernels {

// Matmul, and MatmulTwoTerm when `two_term`: then rows 2i and 2i + 1 of x are the terms of row i of
// y.
absl::Status RunMatmul(absl::string_view op,
                       ThreadPool& pool,
                       const Activations& x,
                       const PackedMatrix& w,
                       const Epilogue& epilogue,
                       const MutableMatrix& y,
                       bool two_term);

inline const GemmKernels& ActiveGemmKernels() {
  return Select(IsaTables<GemmKernels>{&kGemmPortable, &kGemmAvx512});
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_GEMM_TABLES_H_
