// SwiGLU's element-wise part: out = silu(gate) * up, silu(x) = x / (1 + exp(-x)). Stateless; call
// from the pool's owner thread.
#ifndef PACELINE_KERNELS_ACTIVATION_SILU_MUL_H_
#define PACELINE_KERNELS_ACTIVATION_SILU_MUL_H_

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// gate and up may be column ranges of one matrix (MatrixView::Columns).
// InvalidArgument when shapes disagree.
absl::Status SiluMul(ThreadPool& pool,
                     const Matrix& gate,         // [m, f] f32
                     const Matrix& up,           // [m, f] f32
                     const MutableMatrix& out);  // [m, f] f32

// Writes the next matmul's input (resized to [m, f]) in its own form; the same bits as the variant
// above followed by QuantizeActivations.
absl::Status SiluMul(ThreadPool& pool,
                     const Matrix& gate,  // [m, f] f32
                     const Matrix& up,    // [m, f] f32
                     Activations& out);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ACTIVATION_SILU_MUL_H_
