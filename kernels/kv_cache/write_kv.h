// Stores new keys and values in the paged cache. Stateless; call from the pool's owner thread.
#ifndef PACELINE_KERNELS_KV_CACHE_WRITE_KV_H_
#define PACELINE_KERNELS_KV_CACHE_WRITE_KV_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/kv_cache/layout.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// Row i goes to slot slots[i] = block_id * 32 + offset of `layer`, rounded to the cache's type (to
// nearest even). Slots must differ from one another.
// InvalidArgument when shapes disagree, or a slot or the layer is outside the cache.
absl::Status WriteKv(ThreadPool& pool,
                     const Matrix& k,  // [m, num_kv_heads * head_dim] f32, after RoPE
                     const Matrix& v,  // [m, num_kv_heads * head_dim] f32
                     absl::Span<const int32_t> slots,  // [m]
                     int32_t layer,
                     const KvCacheView& cache);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_KV_CACHE_WRITE_KV_H_
