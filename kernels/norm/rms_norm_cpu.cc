#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/dispatch.h"
#include "kernels/gemm/gemm_tables.h"
#include "kernels/norm/norm_kernels.h"
#include "kernels/norm/rms_norm.h"

namespace paceline::kernels {
namespace {

float InverseRms(const float* x, int64_t n, float eps) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(n) + eps));
}

void Scale(const float* x, const float* weight, float scale, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * scale * weight[i];
}

void Add(float* x, const float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] += y[i];
}

// Normalises one row in pieces that fit on the stack and hands them to the quantiser.
void NormRow(const NormKernels& kernels,
             const GemmKernels& gemm,
             const float* x,
             absl::Span<const float> weight,
             float eps,
             Activations& out,
             int64_t row) {
  const auto n = static_cast<int64_t>(weight.size());
  const float scale = kernels.inverse_rms(x, n, eps);
  if (out.form() == ActivationForm::kFloat32) {
    kernels.scale(x, weight.data(), scale, n, out.float_row(row));
    return;
  }
  constexpr int64_t kPiece = 512;  // a multiple of the quantiser's block
  alignas(64) float piece[kPiece];
  for (int64_t i = 0; i < n; i += kPiece) {
    const int64_t count = std::min(kPiece, n - i);
    kernels.scale(x + i, weight.data() + i, scale, count, piece);
    gemm.quantize_row(piece, count, out.block_row(row) + i / kBlockK);
  }
}

const NormKernels& Kernels() {
  return Select(IsaTables<NormKernels>{&kNormPortable, &kNormAvx2, &kNormAvx512});
}

absl::Status CheckInputs(absl::string_view op, const Matrix& x, absl::Span<const float> weight) {
  if (auto status = CheckView(op, "x[m, h]", x); !status.ok()) return status;
  if (x.cols != static_cast<int64_t>(weight.size()) || x.cols == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        op, ": x[m, h] ", ShapeString(x), " does not fit weight[h] [", weight.size(), "]"));
  }
  return absl::OkStatus();
}

}  // namespace

const NormKernels kNormPortable = {InverseRms, Scale, Add};

absl::Status RmsNorm(ThreadPool& pool,
                     const Matrix& x,
                     absl::Span<const float> weight,
                     float eps,
                     const MutableMatrix& out) {
  if (auto status = CheckInputs("RmsNorm", x, weight); !status.ok()) return status;
  if (auto status = CheckView("RmsNorm", "out[m, h]", out); !status.ok()) return status;
  if (out.rows != x.rows || out.cols != x.cols) {
    return ShapeMismatch("RmsNorm", "x[m, h]", x, "out[m, h]", out);
  }
  const NormKernels& kernels = Kernels();
  pool.ForRange(x.rows, x.cols / 4, [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const float scale = kernels.inverse_rms(x.row(i), x.cols, eps);
      kernels.scale(x.row(i), weight.data(), scale, x.cols, out.row(i));
    }
  });
  return absl::OkStatus();
}

absl::Status RmsNorm(ThreadPool& pool,
                     const Matrix& x,
                     absl::Span<const float> weight,
                     float eps,
                     Activations& out) {
  if (auto status = CheckInputs("RmsNorm", x, weight); !status.ok()) return status;
  if (auto status = out.Resize(x.rows, x.cols); !status.ok()) return status;
  const NormKernels& kernels = Kernels();
  const GemmKernels& gemm = ActiveGemmKernels();
  pool.ForRange(x.rows, x.cols / 3, [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      NormRow(kernels, gemm, x.row(i), weight, eps, out, i);
    }
  });
  return absl::OkStatus();
}

absl::Status AddRmsNorm(ThreadPool& pool,
                        const MutableMatrix& x,
                        const Matrix& residual,
                        absl::Span<const float> weight,
                        float eps,
                        Activations& out) {
  if (auto status = CheckInputs("AddRmsNorm", x, weight); !status.ok()) return status;
  if (auto status = CheckView("AddRmsNorm", "residual[m, h]", residual); !status.ok()) {
    return status;
  }
  if (residual.rows != x.rows || residual.cols != x.cols) {
    return ShapeMismatch("AddRmsNorm", "x[m, h]", x, "residual[m, h]", residual);
  }
  if (auto status = out.Resize(x.rows, x.cols); !status.ok()) return status;
  const NormKernels& kernels = Kernels();
  const GemmKernels& gemm = ActiveGemmKernels();
  pool.ForRange(x.rows, x.cols / 3, [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      kernels.add(x.row(i), residual.row(i), x.cols);
      NormRow(kernels, gemm, x.row(i), weight, eps, out, i);
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
