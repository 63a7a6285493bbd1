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
      ActivationBlock* blocks = out.block_row(2 * i);
      kernels.quantize_row(x.row(i), x.cols, blocks);
      for (int64_t k = 0; k < x.cols; ++k) {
        const ActivationBlock& block = blocks[k / kBlockK];
        rest[k] = x.row(i)[k] - block.d * static_cast<float>(block.q[k % kBlockK]);
      }
      kernels.quantize_row(rest.data(), x.cols, out.block_row(2 * i + 1));
    }
  });
  return absl::OkStatus();
}

absl::Status MatmulTwoTerm(ThreadPool& pool,
                           const Activations& x,
                           const PackedMatrix& w,
                           const MutableMatrix& y) {
  return RunMatmul("MatmulTwoTerm", pool, x, w, {}, y, /*two_term=*/true);
}

}  // namespace paceline::kernels
