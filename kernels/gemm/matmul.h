// y = x w^T (+ bias) (+ y): every linear layer and the output head. Stateless; call from the pool's
// owner thread.
//
// An output's bits depend only on its row of x and its row of w: never on how many rows x has, how
// rows of w are packed together, or the number of threads.
#ifndef PACELINE_KERNELS_GEMM_MATMUL_H_
#define PACELINE_KERNELS_GEMM_MATMUL_H_

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

struct Epilogue {
  const float* bias = nullptr;  // [n], added first
  bool accumulate = false;      // then add what y held (the residual)
};

// InvalidArgument when shapes disagree, or x's form is int8 and w is a float format.
absl::Status Matmul(ThreadPool& pool,
                    const Activations& x,   // [m, k]
                    const PackedMatrix& w,  // [n, k]
                    const Epilogue& epilogue,
                    const MutableMatrix& y);  // [m, n] f32

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_MATMUL_H_
