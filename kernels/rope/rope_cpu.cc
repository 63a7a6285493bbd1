#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/dispatch.h"
#include "kernels/rope/rope.h"
#include "kernels/rope/rope_kernels.h"

namespace paceline::kernels {
namespace {

void TurnInterleaved(float* head, const float* cosine, const float* sine, int32_t pairs) {
  for (int32_t i = 0; i < pairs; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    head[2 * i] = a * cosine[i] - b * sine[i];
    head[2 * i + 1] = a * sine[i] + b * cosine[i];
  }
}

void TurnHalves(float* head, const float* cosine, const float* sine, int32_t pairs) {
  for (int32_t i = 0; i < pairs; ++i) {
    const float a = head[i];
    const float b = head[i + pairs];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + pairs] = a * sine[i] + b * cosine[i];
  }
}

const RopeKernels& Kernels() {
  return Select(IsaTables<RopeKernels>{&kRopePortable, &kRopeAvx2, &kRopeAvx512});
}

}  // namespace

const RopeKernels kRopePortable = {TurnInterleaved, TurnHalves};

absl::StatusOr<RopeTable> RopeTable::Create(const Options& options) {
  const int32_t pairs = options.rotary_dim / 2;
  if (options.rotary_dim <= 0 || options.rotary_dim % 2 != 0 || options.max_positions <= 0 ||
      !(options.theta > 0) || !(options.position_scale > 0)) {
    return absl::InvalidArgumentError(absl::StrCat("RopeTable: rotary_dim ",
                                                   options.rotary_dim,
                                                   ", max_positions ",
                                                   options.max_positions,
                                                   ", theta ",
                                                   options.theta,
                                                   ", position_scale ",
                                                   options.position_scale));
  }
  if (!options.frequency_factors.empty() &&
      options.frequency_factors.size() != static_cast<size_t>(pairs)) {
    return absl::InvalidArgumentError(absl::StrCat("RopeTable: ",
                                                   options.frequency_factors.size(),
                                                   " frequency factors for rotary_dim ",
                                                   options.rotary_dim));
  }
  RopeTable table;
  table.rotary_dim_ = options.rotary_dim;
  table.max_positions_ = options.max_positions;
  table.values_.resize(static_cast<size_t>(options.max_positions) * options.rotary_dim);
  for (int32_t i = 0; i < pairs; ++i) {
    double frequency = std::pow(options.theta, -2.0 * i / options.rotary_dim);
    if (!options.frequency_factors.empty()) frequency /= options.frequency_factors[i];
    frequency *= options.position_scale;
    for (int32_t position = 0; position < options.max_positions; ++position) {
      float* const row = table.values_.data() + static_cast<size_t>(position) * options.rotary_dim;
      row[i] = static_cast<float>(std::cos(position * frequency));
      row[i + pairs] = static_cast<float>(std::sin(position * frequency));
    }
  }
  return table;
}

absl::Status ApplyRope(ThreadPool& pool,
                       const RopeTable& table,
                       RopeStyle style,
                       absl::Span<const int32_t> positions,
                       int32_t head_dim,
                       const MutableMatrix& x) {
  if (auto status = CheckView("ApplyRope", "x", x); !status.ok()) return status;
  if (x.rows != static_cast<int64_t>(positions.size()) || head_dim < table.rotary_dim() ||
      x.cols % head_dim != 0) {
    return absl::InvalidArgumentError(absl::StrCat("ApplyRope: x[m, heads * head_dim] ",
                                                   ShapeString(x),
                                                   " does not fit ",
                                                   positions.size(),
                                                   " positions, head_dim ",
                                                   head_dim,
                                                   " and rotary_dim ",
                                                   table.rotary_dim()));
  }
  for (int32_t position : positions) {
    if (position < 0 || position >= table.max_positions()) {
      return absl::InvalidArgumentError(
          absl::StrCat("ApplyRope: position ", position, " of ", table.max_positions()));
    }
  }
  const auto turn = style == RopeStyle::kInterleaved ? Kernels().interleaved : Kernels().half;
  pool.ForRange(x.rows, x.cols / 4, [&](WorkRange rows) {
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      for (int64_t c = 0; c < x.cols; c += head_dim) {
        turn(x.row(i) + c,
             table.cos_row(positions[i]),
             table.sin_row(positions[i]),
             table.rotary_dim() / 2);
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
