// All instruction sets with the same CpuIsaNumerics() give the same bits: that is what lets an
// answer go on at a machine of another kind (worker/runner/numerics.h).
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/activation/gated_matmul.h"
#include "kernels/activation/silu_mul.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/gemm/matmul.h"
#include "kernels/kv_cache/write_kv.h"
#include "kernels/norm/rms_norm.h"
#include "kernels/rope/rope.h"
#include "kernels/sampling/logits.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

// What an op writes, as bytes.
class Output {
 public:
  template <typename T>
  void Add(const T* values, int64_t count) {
    bytes_.append(reinterpret_cast<const char*>(values), count * sizeof(T));
  }
  void Add(const std::vector<float>& values) { Add(values.data(), std::ssize(values)); }
  void Add(double value) { Add(&value, 1); }
  void Add(const Activations& x) {
    for (int64_t i = 0; i < x.rows() * x.cols() / kBlockK; ++i) {
      const ActivationBlock& block = x.block_row(0)[i];
      bytes_.append(reinterpret_cast<const char*>(&block), offsetof(ActivationBlock, wide_quad));
      Add(&block.wide_quad, 1);
    }
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class SameBitsTest : public testing::Test {
 protected:
  void TearDown() override { ASSERT_TRUE(SetActiveCpuIsa(before_).ok()); }

  // `op` writes the same under every instruction set but the portable one.
  void Expect(const std::string& what, const std::function<void(Output&)>& op) {
    Output expected;
    for (CpuIsa isa : kAllCpuIsas) {
      if (CpuIsaNumerics(isa) != CpuIsaNumerics(CpuIsa::kAvx2) || !CpuIsaSupported(isa)) continue;
      ASSERT_TRUE(SetActiveCpuIsa(isa).ok());
      Output output;
      op(output);
      if (isa == CpuIsa::kAvx2) expected = output;
      ASSERT_FALSE(output.bytes().empty());
      EXPECT_EQ(output.bytes() == expected.bytes(), true) << what << ", " << CpuIsaName(isa);
    }
  }

  ThreadPool pool_{2, false};

 private:
  const CpuIsa before_ = ActiveCpuIsa();
};

void Ok(const absl::Status& status) { ASSERT_TRUE(status.ok()) << status; }

// Values over the whole range of exp: from where it vanishes, through denormal results, to
// infinity.
std::vector<float> ExpArguments() {
  std::vector<float> x;
  for (float v = -110.0f; v < 100.0f; v += 0.0037f) x.push_back(v);
  for (float v : {INFINITY, -INFINITY, 0.0f, -0.0f, 88.722f, 88.723f, 88.8f, -87.34f, -103.97f}) {
    x.push_back(v);
  }
  return x;
}

TEST_F(SameBitsTest, Matmul) {
  for (WeightFormat format : kAllFormats) {
    for (ActivationForm form : {ActivationForm::kInt8, ActivationForm::kFloat32}) {
      if (ActivationFormFor(format, ComputeType::kInt8) == ActivationForm::kFloat32 &&
          form == ActivationForm::kInt8) {
        continue;
      }
      const PackedMatrix w = PackOrDie(pool_, RandomWeights(format, 83, 1536, 1));
      const std::vector<float> bias = RandomFloats(83, 2);
      for (int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 9, 33}) {
        std::vector<float> x = RandomFloats(m * 1536, 3, 2.0f);
        for (size_t i = 5; i < x.size(); i += 97) x[i] *= 40;  // wide columns
        Expect(std::string(WeightFormatName(format)), [&](Output& output) {
          Activations input(form);
          Ok(QuantizeActivations(pool_, Matrix(x.data(), m, 1536), input));
          std::vector<float> y = RandomFloats(m * 83, 4);
          const Epilogue epilogue{.bias = bias.data(), .accumulate = true};
          Ok(Matmul(pool_, input, w, epilogue, MutableMatrix(y.data(), m, 83)));
          output.Add(y);
        });
      }
    }
  }
}

// Every operand of the integer products at its bounds.
TEST_F(SameBitsTest, MatmulOfTheLargestIntegers) {
  for (WeightFormat format : kQuantizedFormats) {
    TestWeights weights = RandomWeights(format, 16, 64, 5);
    const int64_t block = RowBytes(format, 32);
    const int64_t scales = format == WeightFormat::kQ4_1 ? 4 : 2;
    for (int fill : {0x00, 0xff, 0x7f, 0x80, 0xf0}) {
      for (size_t i = 0; i < weights.bytes.size(); ++i) {
        if (static_cast<int64_t>(i) % block >= scales) weights.bytes[i] = fill;
      }
      const PackedMatrix w = PackOrDie(pool_, weights);
      for (float sign : {1.0f, -1.0f}) {
        std::vector<float> x(64, sign);
        x[7] = -16 * sign;
        x[40] = 16 * sign;
        Expect(std::string(WeightFormatName(format)), [&](Output& output) {
          Activations input(ActivationForm::kInt8);
          Ok(QuantizeActivations(pool_, Matrix(x.data(), 1, 64), input));
          std::vector<float> y(16);
          Ok(Matmul(pool_, input, w, {}, MutableMatrix(y.data(), 1, 16)));
          output.Add(y);
        });
      }
    }
  }
}

TEST_F(SameBitsTest, GatedMatmul) {
  const PackedMatrix w = PackOrDie(pool_, RandomWeights(WeightFormat::kQ4_1, 256, 96, 6));
  const std::vector<float> x = RandomFloats(41 * 96, 7, 3.0f);
  Expect("gated matmul", [&](Output& output) {
    Activations input(ActivationForm::kInt8), out(ActivationForm::kInt8);
    Ok(QuantizeActivations(pool_, Matrix(x.data(), 41, 96), input));
    Ok(GatedMatmul(pool_, input, w, out));
    output.Add(out);
  });
}

TEST_F(SameBitsTest, NormAndQuantisation) {
  for (int64_t n : {32, 576, 1504}) {
    const std::vector<float> x = RandomFloats(3 * n, 8, 5.0f), residual = RandomFloats(3 * n, 9);
    const std::vector<float> weight = RandomFloats(n, 10);
    Expect("norm", [&](Output& output) {
      std::vector<float> sum = x;
      Activations out(ActivationForm::kInt8);
      const MutableMatrix view(sum.data(), 3, n);
      Ok(AddRmsNorm(pool_, view, Matrix(residual.data(), 3, n), weight, 1e-5f, out));
      output.Add(sum);
      output.Add(out);
    });
  }
  for (int64_t n : {1, 15, 17, 100}) {
    const std::vector<float> x = RandomFloats(n, 11), weight = RandomFloats(n, 12);
    Expect("norm of odd size", [&](Output& output) {
      std::vector<float> out(n);
      Ok(RmsNorm(pool_, Matrix(x.data(), 1, n), weight, 1e-5f, MutableMatrix(out.data(), 1, n)));
      output.Add(out);
    });
  }
}

TEST_F(SameBitsTest, Rope) {
  for (int32_t head_dim : {4, 20, 48, 64, 80}) {
    auto table = RopeTable::Create({.rotary_dim = head_dim, .max_positions = 64, .theta = 1e4});
    ASSERT_TRUE(table.ok());
    for (RopeStyle style : {RopeStyle::kInterleaved, RopeStyle::kHalf}) {
      Expect("rope", [&](Output& output) {
        std::vector<float> x = RandomFloats(4 * 3 * head_dim, 13);
        const MutableMatrix view(x.data(), 4, 3 * head_dim);
        const std::vector<int32_t> positions = {0, 1, 17, 63};
        Ok(ApplyRope(pool_, *table, style, positions, head_dim, view));
        output.Add(x);
      });
    }
  }
}

TEST_F(SameBitsTest, SiluMulOverTheWholeRange) {
  const std::vector<float> gate = ExpArguments();
  const auto n = std::ssize(gate);
  const std::vector<float> up = RandomFloats(n, 14);
  Expect("silu", [&](Output& output) {
    std::vector<float> out(n);
    const MutableMatrix view(out.data(), 1, n);
    Ok(SiluMul(pool_, Matrix(gate.data(), 1, n), Matrix(up.data(), 1, n), view));
    output.Add(out);
  });
}

TEST_F(SameBitsTest, ExpOverTheWholeRange) {
  const std::vector<float> x = ExpArguments();
  Expect("exp", [&](Output& output) {
    for (float value : x) output.Add(SumExp(absl::MakeSpan(&value, 1), 0.0f, 1.0f));
  });
}

TEST_F(SameBitsTest, KvCacheAndAttention) {
  constexpr int32_t kPositions = 300, kKvHeads = 2;
  for (DType dtype : {DType::kF16, DType::kI8, DType::kF32}) {
    for (int32_t head_dim : {48, 64}) {
      for (int32_t group : {1, 2, 3, 7}) {
        const int64_t kv_cols = kKvHeads * head_dim, q_cols = kv_cols * group;
        const std::vector<float> k = RandomFloats(kPositions * kv_cols, 15);
        const std::vector<float> v = RandomFloats(kPositions * kv_cols, 16);
        const std::vector<float> q = RandomFloats(40 * q_cols, 17, 3.0f);
        std::vector<int32_t> slots(kPositions);
        std::iota(slots.begin(), slots.end(), 0);
        std::vector<int32_t> blocks(10);
        std::iota(blocks.begin(), blocks.end(), 0);
        Expect("attention", [&](Output& output) {
          const KvLayout layout{1, kKvHeads, head_dim, dtype};
          const AlignedBuffer memory = *AlignedBuffer::Allocate(10 * layout.BytesPerBlock());
          const KvCacheView cache{memory.data(), 10, layout};
          const Matrix keys(k.data(), kPositions, kv_cols), values(v.data(), kPositions, kv_cols);
          Ok(WriteKv(pool_, keys, values, slots, 0, cache));
          output.Add(memory.data(), 10 * layout.BytesPerBlock());
          // A prefill of 40 rows, and the last row as a decode step.
          for (int32_t rows : {40, 1}) {
            const Matrix queries(q.data(), rows, q_cols);
            const std::vector<SequenceView> sequences = {{0, rows, kPositions - rows, blocks}};
            std::vector<float> out(rows * q_cols);
            const MutableMatrix view(out.data(), rows, q_cols);
            AttentionWorkspace workspace;
            Ok(PagedAttention(pool_, queries, cache, 0, sequences, 0.3f, workspace, view));
            output.Add(out);
          }
        });
      }
    }
  }
}

TEST_F(SameBitsTest, PassesOverLogits) {
  for (int64_t n : {1, 15, 100, 1000, 49152}) {
    const std::vector<float> logits = RandomFloats(n, 18, 4.0f);
    Expect("logits", [&](Output& output) {
      const LogitSummary summary = ArgMax(logits);
      output.Add(&summary.best, 1);
      output.Add(LogSumExp(logits, summary.best.logit));
      output.Add(SumExp(logits, summary.best.logit, 1.7f));
      output.Add(static_cast<double>(CountGreater(logits, 0.5f)));
      std::vector<TokenLogit> found;
      TopK(logits, 50, found);
      output.Add(found.data(), std::ssize(found));
      CollectAtLeast(logits, -1.0f, found);
      output.Add(found.data(), std::ssize(found));
    });
  }
}

}  // namespace
}  // namespace paceline::kernels
