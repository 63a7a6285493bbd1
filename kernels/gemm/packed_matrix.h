// A weight matrix [n, k] laid out for the matmul kernels: 16 rows interleaved, block by block.
// Immutable after Pack(); any thread may read it. Owns its memory (huge pages when large).
#ifndef PACELINE_KERNELS_GEMM_PACKED_MATRIX_H_
#define PACELINE_KERNELS_GEMM_PACKED_MATRIX_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/gemm_kernels.h"

namespace paceline::kernels {

absl::string_view WeightFormatName(WeightFormat format);

// Bytes of one row of k columns as stored in a GGUF file; 0 when k does not fit the format.
int64_t RowBytes(WeightFormat format, int64_t k);

// Rows of one source tensor, as stored in a GGUF file.
struct MatrixSource {
  const uint8_t* data;  // first row
  int64_t num_rows;
  int64_t row_stride_bytes = 0;  // 0: rows are adjacent. Larger: k is a slice of wider rows
};

class PackedMatrix {
 public:
  // Empty; every use but assignment needs a packed one.
  PackedMatrix() = default;

  WeightFormat format() const { return format_; }
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  int64_t bytes() const { return static_cast<int64_t>(buffer_.size()); }
  int64_t group_bytes() const { return group_bytes_; }
  int64_t num_groups() const { return (n_ + kPackRows - 1) / kPackRows; }
  const uint8_t* group(int64_t i) const { return buffer_.data() + i * group_bytes_; }

 private:
  friend absl::StatusOr<PackedMatrix> PackRows(ThreadPool& pool,
                                               WeightFormat format,
                                               absl::Span<const MatrixSource> sources,
                                               int64_t k);

  WeightFormat format_ = WeightFormat::kF32;
  int64_t n_ = 0;
  int64_t k_ = 0;
  int64_t group_bytes_ = 0;
  AlignedBuffer buffer_;
};

// Packs the rows of all sources, in order, as one matrix (q, k, v or gate, up in one matmul); an
// output's bits are the same as with the source packed alone.
// InvalidArgument when k is not a multiple of 32 for a quantised format, or a size is not positive;
// ResourceExhausted when there is no memory.
absl::StatusOr<PackedMatrix> PackRows(ThreadPool& pool,
                                      WeightFormat format,
                                      absl::Span<const MatrixSource> sources,
                                      int64_t k);

// One source of n rows.
absl::StatusOr<PackedMatrix> Pack(ThreadPool& pool,
                                  WeightFormat format,
                                  const uint8_t* data,  // n * RowBytes(format, k)
                                  int64_t n,
                                  int64_t k);

// Dequantises row `row` into out[k]: exactly d * q (+ m), rounded to float32 once per operation.
void UnpackRow(const PackedMatrix& w, int64_t row, float* out);

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_GEMM_PACKED_MATRIX_H_
