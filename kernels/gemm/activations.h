// The input of a matmul, [rows, cols], in the form that its weights want: plain float32, or int8 in
// blocks of 32, each with its scale and sum.
// Owned by the layer or runner that fills it and reused every step: Resize() allocates only when it
// grows past what it ever held. Not thread-safe; kernels split its rows among the pool's threads.
#ifndef PACELINE_KERNELS_GEMM_ACTIVATIONS_H_
#define PACELINE_KERNELS_GEMM_ACTIVATIONS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/gemm_kernels.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor_view.h"

namespace paceline::kernels {

enum class ActivationForm { kFloat32, kInt8 };

// What the caller asks for: kInt8 is the fast path, kFloat32 the reference float path, in which
// weights are dequantised on the fly and every product is accumulated in float32.
enum class ComputeType { kInt8, kFloat32 };

// The form in which `format`'s matmul takes its input: float weights always take float32.
ActivationForm ActivationFormFor(WeightFormat format, ComputeType compute);

class Activations {
 public:
  explicit Activations(ActivationForm form) : form_(form) {}

  ActivationForm form() const { return form_; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }

  // Makes room for [rows, cols]; the contents are then undefined.
  // InvalidArgument when form is kInt8 and cols is not a multiple of 32; ResourceExhausted when
  // there is no memory.
  absl::Status Resize(int64_t rows, int64_t cols);

  // REQUIRES: form() == kFloat32.
  float* float_row(int64_t row) const {
    return reinterpret_cast<float*>(buffer_.data()) + row * cols_;
  }
  // cols / 32 blocks. REQUIRES: form() == kInt8.
  ActivationBlock* block_row(int64_t row) const {
    return reinterpret_cast<ActivationBlock*>(buffer_.data()) + row * (cols_ / kBlockK);
  }

 private:
  ActivationForm form_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  AlignedBuffer buffer_;
};

// Fills `out` (resized to x's shape) with x, quantised when out's form is kInt8: per block of 32,
// scale = max(second largest |x|, largest |x| / 16) / 127 and n = round-to-nearest-even(x / scale),
// of which the largest takes more than 8 bits (ActivationBlock). A NaN or infinity in a block makes
// its scale and sum NaN, so it reaches every output instead of getting lost.
absl::Status QuantizeActivations(ThreadPool& pool,
                                 const Matrix& x,  // [m, k] f32
                                 Activations& out);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_ACTIVATIONS_H_
