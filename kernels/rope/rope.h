// Rotary position embedding. RopeTable is owned by the model's layers and immutable after Create();
// ApplyRope is stateless and called from the pool's owner thread.
#ifndef PACELINE_KERNELS_ROPE_ROPE_H_
#define PACELINE_KERNELS_ROPE_ROPE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

// Which two elements of a head turn together.
enum class RopeStyle {
  kInterleaved,  // (2i, 2i+1): llama-architecture GGUF files
  kHalf,         // (i, i + rotary_dim/2): GPT-NeoX and Hugging Face checkpoints
};

// Cosine and sine of every angle of every position, computed once in double precision.
class RopeTable {
 public:
  struct Options {
    int32_t rotary_dim = 0;  // even; the first rotary_dim elements of a head turn
    int32_t max_positions = 0;
    double theta = 10000.0;       // rope.freq_base
    double position_scale = 1.0;  // linear scaling: angle = position * position_scale * frequency
    absl::Span<const float>
        frequency_factors;  // [rotary_dim/2] divisors (rope_freqs.weight), or empty
  };
  // InvalidArgument when a size is not positive, odd, or the factors' count is wrong.
  static absl::StatusOr<RopeTable> Create(const Options& options);

  int32_t rotary_dim() const { return rotary_dim_; }
  int32_t max_positions() const { return max_positions_; }
  const float* cos_row(int32_t position) const {  // [rotary_dim/2]
    return values_.data() + static_cast<int64_t>(position) * rotary_dim_;
  }
  const float* sin_row(int32_t position) const { return cos_row(position) + rotary_dim_ / 2; }

 private:
  int32_t rotary_dim_ = 0;
  int32_t max_positions_ = 0;
  std::vector<float> values_;  // [max_positions][cos: rotary_dim/2 | sin: rotary_dim/2]
};

// Turns every head of x in place. q and k that lie side by side in one matrix can be turned in one
// call (x = qkv.Columns(0, (num_heads + num_kv_heads) * head_dim)).
// InvalidArgument when shapes disagree or a position is outside the table.
absl::Status ApplyRope(ThreadPool& pool,
                       const RopeTable& table,
                       RopeStyle style,
                       absl::Span<const int32_t> positions,  // [m]
                       int32_t head_dim,
                       const MutableMatrix& x);  // [m, heads * head_dim] f32

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_ROPE_ROPE_H_
