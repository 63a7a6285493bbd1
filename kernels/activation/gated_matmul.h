// The first half of a SwiGLU block in one pass: out = silu(x gate^T) * (x up^T), quantised for the
// down projection. The two products never reach memory. Stateless; call from the pool's owner
// thread.
#ifndef PACELINE_KERNELS_ACTIVATION_GATED_MATMUL_H_
#define PACELINE_KERNELS_ACTIVATION_GATED_MATMUL_H_

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "kernels/gemm/packed_matrix.h"

namespace paceline::kernels {

// Writes out (resized to [m, f]) with the bits of Matmul, SiluMul and QuantizeActivations.
// InvalidArgument when shapes disagree, f is not a multiple of 32, or a form is not int8.
absl::Status GatedMatmul(
    ThreadPool& pool,
    const Activations& x,         // [m, k] int8
    const PackedMatrix& gate_up,  // [2 f, k]: rows of gate and up by turns, 16 each
    Activations& out);            // [m, f] int8

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ACTIVATION_GATED_MATMUL_H_
