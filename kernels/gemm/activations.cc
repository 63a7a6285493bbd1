#include "kernels/gemm/activations.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/gemm/gemm_tables.h"

namespace paceline::kernels {

ActivationForm ActivationFormFor(WeightFormat format, ComputeType compute) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
    case WeightFormat::kBF16Pairs:
      return ActivationForm::kFloat32;
    case WeightFormat::kQ8_0:
    case WeightFormat::kQ4_0:
    case WeightFormat::kQ4_1:
      break;
  }
  return compute == ComputeType::kInt8 ? ActivationForm::kInt8 : ActivationForm::kFloat32;
}

absl::Status Activations::Resize(int64_t rows, int64_t cols) {
  if (rows < 0 || cols <= 0 || (form_ == ActivationForm::kInt8 && cols % kBlockK != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("activations [",
                                                   rows,
                                                   ", ",
                                                   cols,
                                                   "]: sizes must be positive, and int8 "
                                                   "blocks are 32 columns"));
  }
  const int64_t row_bytes = form_ == ActivationForm::kInt8
                                ? cols / kBlockK * static_cast<int64_t>(sizeof(ActivationBlock))
                                : cols * static_cast<int64_t>(sizeof(float));
  if (static_cast<size_t>(rows * row_bytes) > buffer_.size()) {
    auto buffer = AlignedBuffer::Allocate(rows * row_bytes);
    if (!buffer.ok()) return buffer.status();
    buffer_ = *std::move(buffer);
  }
  rows_ = rows;
  cols_ = cols;
  return absl::OkStatus();
}

absl::Status QuantizeActivations(ThreadPool& pool, const Matrix& x, Activations& out) {
  if (auto status = CheckView("QuantizeActivations", "x[m, k]", x); !status.ok()) return status;
  if (auto status = out.Resize(x.rows, x.cols); !status.ok()) return status;
  const GemmKernels& kernels = ActiveGemmKernels();
  pool.ForRange(x.rows, x.cols / 4, [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      if (out.form() == ActivationForm::kInt8) {
        kernels.quantize_row(x.row(i), x.cols, out.block_row(i));
      } else {
        std::memcpy(out.float_row(i), x.row(i), x.cols * sizeof(float));
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
