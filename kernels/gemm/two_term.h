// Matmul with activations of about 15 bits: each row is quantised twice, its int8 blocks and the
// int8 blocks of what they left over, and both go through the same int8 matmul. Twice the
// multiplications, but one pass over the weights, so nearly free where a few rows meet a large
// matrix: the output head. Stateless; call from the pool's owner thread.
#ifndef PACELINE_KERNELS_GEMM_TWO_TERM_H_
#define PACELINE_KERNELS_GEMM_TWO_TERM_H_

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// Fills `out` (resized to [2m, k], form kInt8): row 2i holds x[i] quantised, row 2i + 1 the
// quantised remainder. InvalidArgument when out's form is not kInt8 or k is not a multiple of 32.
absl::Status QuantizeTwoTerm(ThreadPool& pool,
                             const Matrix& x,  // [m, k] f32
                             Activations& out);

// y[i] = w x[2i] + w x[2i + 1], for x from QuantizeTwoTerm: the bits of two rows of Matmul, added.
// InvalidArgument when shapes disagree.
absl::Status MatmulTwoTerm(ThreadPool& pool,
                           const Activations& x,     // [2m, k]
                           const PackedMatrix& w,    // [n, k]
                           const MutableMatrix& y);  // [m, n] f32

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_TWO_TERM_H_
