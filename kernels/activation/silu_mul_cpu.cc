#include <algorithm>
#include <cmath>

#include "kernels/activation/activation_tables.h"
#include "kernels/activation/silu_mul.h"
#include "kernels/gemm/gemm_tables.h"

namespace paceline::kernels {
namespace {

void SiluMulRow(const float* gate, const float* up, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

absl::Status CheckInputs(const Matrix& gate, const Matrix& up) {
  if (auto status = CheckView("SiluMul", "gate[m, f]", gate); !status.ok()) return status;
  if (auto status = CheckView("SiluMul", "up[m, f]", up); !status.ok()) return status;
  if (gate.rows != up.rows || gate.cols != up.cols) {
    return ShapeMismatch("SiluMul", "gate[m, f]", gate, "up[m, f]", up);
  }
  return absl::OkStatus();
}

}  // namespace

const ActivationKernels kActivationPortable = {SiluMulRow};

absl::Status SiluMul(ThreadPool& pool,
                     const Matrix& gate,
                     const Matrix& up,
                     const MutableMatrix& out) {
  if (auto status = CheckInputs(gate, up); !status.ok()) return status;
  if (auto status = CheckView("SiluMul", "out[m, f]", out); !status.ok()) return status;
  if (out.rows != gate.rows || out.cols != gate.cols) {
    return ShapeMismatch("SiluMul", "gate[m, f]", gate, "out[m, f]", out);
  }
  const ActivationKernels& kernels = ActiveActivationKernels();
  pool.ForRange(gate.rows, gate.cols / 2, [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      kernels.silu_mul(gate.row(i), up.row(i), gate.cols, out.row(i));
    }
  });
  return absl::OkStatus();
}

absl::Status SiluMul(ThreadPool& pool, const Matrix& gate, const Matrix& up, Activations& out) {
  if (auto status = CheckInputs(gate, up); !status.ok()) return status;
  if (auto status = out.Resize(gate.rows, gate.cols); !status.ok()) return status;
  const ActivationKernels& kernels = ActiveActivationKernels();
  const GemmKernels& gemm = ActiveGemmKernels();
  constexpr int64_t kPiece = 512;  // a multiple of the quantiser's block
  pool.ForRange(gate.rows, gate.cols / 2, [&](WorkRange rows) {
    alignas(64) float piece[kPiece];
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      if (out.form() == ActivationForm::kFloat32) {
        kernels.silu_mul(gate.row(i), up.row(i), gate.cols, out.float_row(i));
        continue;
      }
      for (int64_t c = 0; c < gate.cols; c += kPiece) {
        const int64_t count = std::min(kPiece, gate.cols - c);
        kernels.silu_mul(gate.row(i) + c, up.row(i) + c, count, piece);
        gemm.quantize_row(piece, count, out.block_row(i) + c / kBlockK);
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
