#include "kernels/activation/gated_matmul.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/activation/activation_tables.h"
#include "kernels/gemm/gemm_tables.h"

namespace paceline::kernels {
namespace {

constexpr int64_t kUnitGroups = 4;                      // gate, up, gate, up: one block of outputs
constexpr int64_t kUnitRows = kUnitGroups * kPackRows;  // of gate_up
constexpr int64_t kPanelRows = 36;                      // of x whose products stay in L1

struct Call {
  const GemmKernels& gemm;
  const ActivationKernels& activation;
  const Activations& x;
  const PackedMatrix& gate_up;
  Activations& out;
};

// Block `unit` of the outputs of rows [first, first + count).
void RunUnit(const Call& call, int64_t unit, int64_t first, int64_t count) {
  alignas(64) float products[kPanelRows * kUnitRows];
  alignas(64) float inner[kPanelRows * kBlockK];
  ActivationBlock blocks[kPanelRows];
  GemmArgs args{};
  args.w = call.gate_up.group(unit * kUnitGroups);
  args.group_bytes = call.gate_up.group_bytes();
  args.num_groups = kUnitGroups;
  args.num_rows = kUnitRows;
  args.k = call.gate_up.k();
  args.x = call.x.block_row(first);
  args.x_stride = args.k / kBlockK;
  args.m = count;
  args.y = products;
  args.y_stride = kUnitRows;
  call.gemm.int8[static_cast<size_t>(call.gate_up.format())](args);
  for (int64_t i = 0; i < count; ++i) {
    const float* const row = products + i * kUnitRows;
    for (int64_t half = 0; half < 2; ++half) {
      const float* const gate = row + half * 2 * kPackRows;
      call.activation.silu_mul(
          gate, gate + kPackRows, kPackRows, inner + i * kBlockK + half * kPackRows);
    }
  }
  call.gemm.quantize_row(inner, count * kBlockK, blocks);
  for (int64_t i = 0; i < count; ++i) call.out.block_row(first + i)[unit] = blocks[i];
}

// All rows, a panel at a time; the units' weights stay in L2 meanwhile.
void RunUnits(const Call& call, WorkRange units) {
  for (int64_t first = 0; first < call.x.rows(); first += kPanelRows) {
    const int64_t count = std::min(kPanelRows, call.x.rows() - first);
    for (int64_t unit = units.begin; unit < units.end; ++unit) RunUnit(call, unit, first, count);
  }
}

}  // namespace

absl::Status GatedMatmul(ThreadPool& pool,
                         const Activations& x,
                         const PackedMatrix& gate_up,
                         Activations& out) {
  const GemmKernels& gemm = ActiveGemmKernels();
  if (x.form() != ActivationForm::kInt8 || out.form() != ActivationForm::kInt8 ||
      gemm.int8[static_cast<size_t>(gate_up.format())] == nullptr) {
    return absl::InvalidArgumentError("GatedMatmul: every form must be int8");
  }
  if (x.cols() != gate_up.k() || gate_up.n() % kUnitRows != 0) {
    return absl::InvalidArgumentError(absl::StrCat("GatedMatmul: x[m, k] [",
                                                   x.rows(),
                                                   ", ",
                                                   x.cols(),
                                                   "] and gate_up[2 f, k] [",
                                                   gate_up.n(),
                                                   ", ",
                                                   gate_up.k(),
                                                   "] do not fit, or f is not a multiple of 32"));
  }
  if (auto status = out.Resize(x.rows(), gate_up.n() / 2); !status.ok()) return status;
  const Call call{gemm, ActiveActivationKernels(), x, gate_up, out};
  const int64_t cost_ns = kUnitRows * x.cols() * x.rows() / 100;  // at 100 GMAC/s
  const int64_t chunk_units =
      std::max<int64_t>(1, kWeightChunkBytes / (kUnitGroups * gate_up.group_bytes()));
  pool.ForRange(gate_up.n() / kUnitRows, cost_ns, [&](WorkRange units) {
    for (int64_t begin = units.begin; begin < units.end; begin += chunk_units) {
      RunUnits(call, {begin, std::min(begin + chunk_units, units.end)});
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
