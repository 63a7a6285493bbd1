// The matmul's entry point and its readable reference kernels.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/gemm/gemm_tables.h"
#include "kernels/gemm/matmul.h"
#include "kernels/half.h"

namespace paceline::kernels {
namespace {

// One format's view of a packed group: `Value` for the float path; for the int8 path the output is
// sum over blocks of scale * d * dot + min * s, dot being exact.
struct Q4_1 {
  using Block = PackedQ4_1;
  static float Scale(const Block& b, int r) { return HalfToFloat(b.d[r]); }
  static float Min(const Block& b, int r) { return HalfToFloat(b.m[r]); }
  static int Quant(const Block& b, int r, int c) {
    const uint8_t byte = b.q[64 * (c % 16 / 4) + 4 * r + c % 4];
    return c < 16 ? byte & 15 : byte >> 4;
  }
};
struct Q4_0 {
  using Block = PackedQ4_0;
  static float Scale(const Block& b, int r) { return HalfToFloat(b.d[r]); }
  static float Min(const Block&, int) { return 0; }
  static int Quant(const Block& b, int r, int c) {
    const uint8_t byte = b.q[64 * (c % 16 / 4) + 4 * r + c % 4];
    return (c < 16 ? byte & 15 : byte >> 4) - 8;
  }
};
struct Q8_0 {
  using Block = PackedQ8_0;
  static float Scale(const Block& b, int r) { return HalfToFloat(b.d[r]); }
  static float Min(const Block&, int) { return 0; }
  static int Quant(const Block& b, int r, int c) { return b.q[64 * (c / 4) + 4 * r + c % 4] - 128; }
};

float F32Element(const void* group, int64_t i) {
  float value;
  std::memcpy(&value, static_cast<const uint8_t*>(group) + 4 * i, 4);
  return value;
}
float F16Element(const void* group, int64_t i) {
  return HalfToFloat(static_cast<const uint16_t*>(group)[i]);
}
float BF16Element(const void* group, int64_t i) {
  return Bfloat16ToFloat(static_cast<const uint16_t*>(group)[i]);
}

void Store(const GemmArgs& args, int64_t i, int64_t row, float sum) {
  float& y = args.y[i * args.y_stride + row];
  if (args.bias != nullptr) sum += args.bias[row];
  y = args.accumulate ? y + sum : sum;
}

// Calls output(group, lane, i) for every output and stores what it returns.
template <typename Output>
void ForEachOutput(const GemmArgs& args, Output output) {
  for (int64_t row = 0; row < args.num_rows; ++row) {
    const auto* group = static_cast<const uint8_t*>(args.w) + row / kPackRows * args.group_bytes;
    const auto lane = static_cast<int>(row % kPackRows);
    for (int64_t i = 0; i < args.m; ++i) Store(args, i, row, output(group, lane, i));
  }
}

template <typename Format>
void Int8Kernel(const GemmArgs& args) {
  ForEachOutput(args, [&](const uint8_t* group, int lane, int64_t i) {
    const auto* w = reinterpret_cast<const typename Format::Block*>(group);
    const auto* x = static_cast<const ActivationBlock*>(args.x) + i * args.x_stride;
    float sum = 0;
    for (int64_t b = 0; b < args.k / kBlockK; ++b) {
      int32_t dot = 0;
      for (int c = 0; c < kBlockK; ++c) dot += Format::Quant(w[b], lane, c) * x[b].q[c];
      for (int t = 0; t < 4; ++t) {
        dot += 16 * Format::Quant(w[b], lane, 4 * x[b].wide_quad + t) * x[b].high[t];
      }
      sum += Format::Scale(w[b], lane) * x[b].d * static_cast<float>(dot);
      sum += Format::Min(w[b], lane) * x[b].s;
    }
    return sum;
  });
}

template <typename Format>
void FloatKernel(const GemmArgs& args) {
  ForEachOutput(args, [&](const uint8_t* group, int lane, int64_t i) {
    const auto* w = reinterpret_cast<const typename Format::Block*>(group);
    const float* x = static_cast<const float*>(args.x) + i * args.x_stride;
    float sum = 0;
    for (int64_t b = 0; b < args.k / kBlockK; ++b) {
      const float scale = Format::Scale(w[b], lane);
      const float min = Format::Min(w[b], lane);
      for (int c = 0; c < kBlockK; ++c) {
        const float value = scale * static_cast<float>(Format::Quant(w[b], lane, c)) + min;
        sum += value * x[b * kBlockK + c];
      }
    }
    return sum;
  });
}

template <float (*Element)(const void*, int64_t)>
void PlainKernel(const GemmArgs& args) {
  ForEachOutput(args, [&](const uint8_t* group, int lane, int64_t i) {
    const float* x = static_cast<const float*>(args.x) + i * args.x_stride;
    float sum = 0;
    for (int64_t j = 0; j < args.k; ++j) sum += Element(group, 16 * j + lane) * x[j];
    return sum;
  });
}

void Bf16Kernel(const GemmArgs& args) {
  ForEachOutput(args, [&](const uint8_t* group, int lane, int64_t i) {
    const auto* const w = reinterpret_cast<const uint16_t*>(group);
    const auto* const x = static_cast<const FloatPair*>(args.x) + i * args.x_stride;
    float sum = 0;
    for (int64_t j = 0; j < args.k / 2; ++j) {
      const uint16_t* const pair = w + 2 * (16 * j + lane);
      sum += Bfloat16ToFloat(pair[0]) * x[j].first + Bfloat16ToFloat(pair[1]) * x[j].second;
    }
    return sum;
  });
}

void QuantizeRow(const float* x, int64_t k, ActivationBlock* out) {
  for (int64_t b = 0; b < k / kBlockK; ++b, x += kBlockK) {
    ActivationBlock& block = out[b];
    block = {};
    int wide = 0;
    bool finite = true;
    for (int c = 0; c < kBlockK; ++c) {
      if (std::fabs(x[c]) > std::fabs(x[wide])) wide = c;
      finite &= std::isfinite(x[c]);
    }
    if (!finite) {
      block.d = block.s = NAN;
      continue;
    }
    const float largest = std::fabs(x[wide]);
    if (largest < 1e-30f) continue;  // all zero, or too small to invert its scale
    float range = largest / 16;      // 12 bits must do for the largest
    for (int c = 0; c < kBlockK; ++c) {
      if (c != wide) range = std::fmax(range, std::fabs(x[c]));
    }
    block.d = range / 127.0f;
    const float inverse = 1.0f / block.d;
    int32_t sum = 0;
    for (int c = 0; c < kBlockK; ++c) {
      const auto n = static_cast<int32_t>(std::lrint(x[c] * inverse));
      const int32_t high = c == wide ? (n + 8) >> 4 : 0;
      block.q[c] = static_cast<int8_t>(n - 16 * high);
      if (c == wide) block.high[c % 4] = static_cast<int8_t>(high);
      sum += n;
    }
    block.s = block.d * static_cast<float>(sum);
    block.offset = -128 * sum;
    block.wide_quad = wide / 4;
  }
}

// x rounded to bf16, in pairs as the active kernel wants them and memory of the calling thread that
// the next call reuses.
absl::StatusOr<const void*> RoundToBf16(ThreadPool& pool, const Activations& x) {
  thread_local AlignedBuffer buffer;
  const bool floats = ActiveBf16Kernels().float_pairs;
  const size_t bytes = static_cast<size_t>(x.rows() * x.cols()) * (floats ? 4 : 2);
  if (bytes > buffer.size()) {
    auto larger = AlignedBuffer::Allocate(bytes);
    if (!larger.ok()) return larger.status();
    buffer = *std::move(larger);
  }
  void* const rounded = buffer.data();
  pool.ForRange(x.rows(), x.cols(), [&](WorkRange rows) {
    const float* const from = x.float_row(0);
    for (int64_t i = rows.begin * x.cols(); i < rows.end * x.cols(); ++i) {
      const uint16_t bits = FloatToBfloat16(from[i]);
      if (floats) {
        static_cast<float*>(rounded)[i] = Bfloat16ToFloat(bits);
      } else {
        static_cast<uint16_t*>(rounded)[i] = bits;
      }
    }
  });
  return rounded;
}

}  // namespace

const Bf16Kernels kBf16Portable = {Bf16Kernel, /*float_pairs=*/true};

const GemmKernels kGemmPortable = {
    .int8 = {nullptr, nullptr, nullptr, Int8Kernel<Q8_0>, Int8Kernel<Q4_0>, Int8Kernel<Q4_1>},
    .float32 = {PlainKernel<F32Element>,
                PlainKernel<F16Element>,
                PlainKernel<BF16Element>,
                FloatKernel<Q8_0>,
                FloatKernel<Q4_0>,
                FloatKernel<Q4_1>},
    .quantize_row = QuantizeRow,
};

absl::Status Matmul(ThreadPool& pool,
                    const Activations& x,
                    const PackedMatrix& w,
                    const Epilogue& epilogue,
                    const MutableMatrix& y) {
  if (auto status = CheckView("Matmul", "y[m, n]", y); !status.ok()) return status;
  if (x.cols() != w.k() || x.rows() != y.rows || y.cols != w.n()) {
    return absl::InvalidArgumentError(absl::StrCat("Matmul: x[m, k] [",
                                                   x.rows(),
                                                   ", ",
                                                   x.cols(),
                                                   "], w[n, k] [",
                                                   w.n(),
                                                   ", ",
                                                   w.k(),
                                                   "] and y[m, n] ",
                                                   ShapeString(y),
                                                   " do not fit"));
  }
  const GemmKernels& kernels = ActiveGemmKernels();
  const auto format = static_cast<size_t>(w.format());
  const bool int8 = x.form() == ActivationForm::kInt8;
  const bool bf16 = w.format() == WeightFormat::kBF16Pairs && !int8;
  const auto kernel = bf16   ? ActiveBf16Kernels().matmul
                      : int8 ? kernels.int8[format]
                             : kernels.float32[format];
  if (kernel == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("Matmul: int8 activations with ", WeightFormatName(w.format()), " weights"));
  }
  if (x.rows() == 0) return absl::OkStatus();
  const void* input = int8 ? static_cast<const void*>(x.block_row(0)) : x.float_row(0);
  if (bf16) {
    const absl::StatusOr<const void*> rounded = RoundToBf16(pool, x);
    if (!rounded.ok()) return rounded.status();
    input = *rounded;
  }
  // Work is dealt in pairs of groups, which the tuned kernels like to take together.
  const int64_t cost_ns = 2 * kPackRows * w.k() * x.rows() / 100;  // at 100 GMAC/s
  // As much of w at a time as stays in L2 while all rows of x pass.
  const int64_t chunk_pairs = std::max<int64_t>(1, kWeightChunkBytes / (2 * w.group_bytes()));
  pool.ForRange((w.num_groups() + 1) / 2, cost_ns, [&](WorkRange pairs) {
    for (int64_t pair = pairs.begin; pair < pairs.end; pair += chunk_pairs) {
      const int64_t end_pair = std::min(pair + chunk_pairs, pairs.end);
      const WorkRange groups{2 * pair, std::min(2 * end_pair, w.num_groups())};
      const int64_t first_row = groups.begin * kPackRows;
      GemmArgs args;
      args.w = w.group(groups.begin);
      args.group_bytes = w.group_bytes();
      args.num_groups = groups.end - groups.begin;
      args.num_rows = std::min(groups.end * kPackRows, w.n()) - first_row;
      args.k = w.k();
      args.x = input;
      args.x_stride = w.k() / (int8 ? kBlockK : bf16 ? 2 : 1);
      args.m = x.rows();
      args.y = y.data + first_row;
      args.y_stride = y.row_stride;
      args.bias = epilogue.bias == nullptr ? nullptr : epilogue.bias + first_row;
      args.accumulate = epilogue.accumulate;
      kernel(args);
    }
  });
  return absl::OkStatus();
}

}  // namespace paceline::kernels
