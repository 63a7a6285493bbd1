// Root-mean-square normalisation, row by row in a fixed order: out = x / sqrt(mean(x^2) + eps) * w.
// Stateless; call from the pool's owner thread.
#ifndef PACELINE_KERNELS_NORM_RMS_NORM_H_
#define PACELINE_KERNELS_NORM_RMS_NORM_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// Writes float32 rows. `out` may be x itself. InvalidArgument when shapes disagree.
absl::Status RmsNorm(ThreadPool& pool,
                     const Matrix& x,                 // [m, h] f32
                     absl::Span<const float> weight,  // [h]
                     float eps,
                     const MutableMatrix& out);  // [m, h] f32

// Writes the next matmul's input (resized to [m, h]) in its own form; the same bits as the variant
// above followed by QuantizeActivations.
absl::Status RmsNorm(ThreadPool& pool,
                     const Matrix& x,                 // [m, h] f32
                     absl::Span<const float> weight,  // [h]
                     float eps,
                     Activations& out);

// x += residual, then RmsNorm of x into `out`.
absl::Status AddRmsNorm(ThreadPool& pool,
                        const MutableMatrix& x,          // [m, h] f32, in and out
                        const Matrix& residual,          // [m, h] f32
                        absl::Span<const float> weight,  // [h]
                        float eps,
                        Activations& out);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_NORM_RMS_NORM_H_
