#include "kernels/gemm/two_term.h"

#include <vector>

#include "kernels/gemm/gemm_tables.h"
#include "kernels/gemm/matmul.h"

namespace paceline::kernels {

absl::Status QuantizeTwoTerm(ThreadPool& pool, const Matrix& x, Activations& out) {
  if (auto status = CheckView("QuantizeTwoTerm", "x[m, k]", x); !status.ok()) return status;
  if (out.form() != ActivationForm::kInt8) {
    return absl::InvalidArgumentError("QuantizeTwoTerm: the output's form must be int8");
  }
  if (auto status = out.Resize(2 * x.rows, x.cols); !status.ok()) return status;
  const GemmKernels& kernels = ActiveGemmKernels();
  pool.ForRange(x.rows, x.cols, [&](WorkRange rows) {
    std::vector<float> rest(x.cols);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      ActivationBlock* blocks = out.block_row(i);
      kernels.quantize_row(x.row(i), x.cols, blocks);
      for (int64_t k = 0; k < x.cols; ++k) {
        const ActivationBlock& block = blocks[k / kBlockK];
        rest[k] = x.row(i)[k] - block.d * static_cast<float>(block.q[k % kBlockK]);
      }
      kernels.quantize_row(rest.data(), x.cols, out.block_row(x.rows + i));
    }
  });
  return absl::OkStatus();
}

absl::Status MatmulTwoTerm(ThreadPool& pool,
                           const Activations& x,
                           const PackedMatrix& w,
                           const MutableMatrix& scratch,
                           const MutableMatrix& y) {
  if (x.rows() != 2 * y.rows || scratch.rows != 2 * y.rows || scratch.cols != y.cols) {
    return ShapeMismatch("MatmulTwoTerm", "scratch[2m, n]", scratch, "y[m, n]", y);
  }
  if (auto status = Matmul(pool, x, w, {}, scratch); !status.ok()) return status;
  const int64_t m = y.rows;
  pool.ForRange(m, y.cols / 4, [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const float* first = scratch.row(i);
      const float* second = scratch.row(m + i);
      float* sum = y.row(i);
      for (int64_t n = 0; n < y.cols; ++n) sum[n] = first[n] + second[n];
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
