// Row gathers: token embeddings out of a packed table, and rows out of a float matrix. Stateless;
// call from the pool's owner thread.
#ifndef PACELINE_KERNELS_EMBEDDING_EMBED_H_
#define PACELINE_KERNELS_EMBEDDING_EMBED_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// out[i] = row ids[i] of the table, dequantised. The table may be the packed output head (tied).
// InvalidArgument when shapes disagree or an id is outside [0, n).
absl::Status Embed(ThreadPool& pool,
                   const PackedMatrix& table,      // [vocab, hidden]
                   absl::Span<const int32_t> ids,  // [m]
                   const MutableMatrix& out);      // [m, hidden] f32

// out[i] = x[rows[i]]. InvalidArgument when shapes disagree or a row is outside x.
absl::Status GatherRows(ThreadPool& pool,
                        const Matrix& x,                 // [*, cols] f32
                        absl::Span<const int32_t> rows,  // [m]
                        const MutableMatrix& out);       // [m, cols] f32

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_EMBEDDING_EMBED_H_
