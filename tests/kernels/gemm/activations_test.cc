#include "kernels/gemm/activations.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/gemm/gemm_tables.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

class ActivationsTest : public IsaTest {
 protected:
  Activations Quantize(const std::vector<float>& x, int64_t cols) {
    Activations out(ActivationForm::kInt8);
    const Matrix view(x.data(), static_cast<int64_t>(x.size()) / cols, cols);
    EXPECT_TRUE(QuantizeActivations(pool_, view, out).ok());
    return out;
  }
  ThreadPool pool_{2, false};
};

// Every block is as exact as its second largest value allows, or its largest when that stands out
// by more than 16 times.
TEST_P(ActivationsTest, TheLargestValueDoesNotCostTheOthersTheirPrecision) {
  std::vector<float> x = RandomFloats(5 * 96, 1, 3.0f);
  std::fill(x.begin() + 32, x.begin() + 64, 0.0f);
  for (int b = 2; b < 15; ++b) x[b * 32 + 5 * b % 32] = (b % 2 == 0 ? 4.0f : -4.0f) * b;
  x[14 * 32 + 31] = x[14 * 32 + 6] = 56.0f;  // two of the same size
  const Activations q = Quantize(x, 96);
  for (int64_t b = 0; b < 15; ++b) {
    const ActivationBlock& block = q.block_row(b / 3)[b % 3];
    std::vector<float> sizes;
    int sum = 0;
    for (int i = 0; i < 32; ++i) sizes.push_back(std::fabs(x[b * 32 + i]));
    std::sort(sizes.begin(), sizes.end());
    EXPECT_EQ(block.d, std::max(sizes[30], sizes[31] / 16) / 127.0f);
    for (int i = 0; i < 32; ++i) {
      EXPECT_NEAR(
          BlockValue(block, i) * static_cast<double>(block.d), x[b * 32 + i], 0.501 * block.d)
          << b << " " << i;
      sum += BlockValue(block, i);
    }
    EXPECT_EQ(block.s, block.d * static_cast<float>(sum));
    EXPECT_EQ(block.offset, -128 * sum);
  }
}

TEST_P(ActivationsTest, TinyBlocksBecomeZero) {
  const Activations q = Quantize(std::vector<float>(32, 1e-38f), 32);
  EXPECT_EQ(q.block_row(0)->d, 0.0f);
  EXPECT_EQ(q.block_row(0)->q[7], 0);
}

TEST_P(ActivationsTest, NanAndInfinityMakeTheirBlockNan) {
  for (float bad : {NAN, -NAN, INFINITY, -INFINITY}) {
    for (int at : {0, 17, 31}) {
      std::vector<float> x(64, 1.0f);
      x[at] = bad;
      const Activations q = Quantize(x, 64);
      EXPECT_TRUE(std::isnan(q.block_row(0)[0].d));
      EXPECT_TRUE(std::isnan(q.block_row(0)[0].s));
      EXPECT_FALSE(std::isnan(q.block_row(0)[1].d));
    }
  }
}

TEST_P(ActivationsTest, FloatFormKeepsTheValues) {
  const std::vector<float> x = RandomFloats(3 * 33, 2);
  Activations out(ActivationForm::kFloat32);
  ASSERT_TRUE(QuantizeActivations(pool_, Matrix(x.data(), 3, 33), out).ok());
  EXPECT_TRUE(SameBits(out.float_row(0), x.data(), 3 * 33));
}

TEST_P(ActivationsTest, Int8NeedsWholeBlocks) {
  Activations out(ActivationForm::kInt8);
  EXPECT_EQ(out.Resize(1, 33).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(out.Resize(-1, 32).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(out.Resize(0, 32).ok());
}

INSTANTIATE_TEST_SUITE_P(Isas, ActivationsTest, AllIsas(), IsaTestName);

TEST(QuantizeTest, AllInstructionSetsGiveTheSameBlocks) {
  const CpuIsa before = ActiveCpuIsa();
  const std::vector<float> x = RandomFloats(64 * 1024, 3, 10.0f);
  std::vector<ActivationBlock> expected(2048), blocks(2048);
  kGemmPortable.quantize_row(x.data(), 64 * 1024, expected.data());
  for (CpuIsa isa : kAllCpuIsas) {
    if (!SetActiveCpuIsa(isa).ok()) continue;  // not on this machine
    ActiveGemmKernels().quantize_row(x.data(), 64 * 1024, blocks.data());
    EXPECT_TRUE(SameBits(expected.data(), blocks.data(), 2048)) << CpuIsaName(isa);
  }
  ASSERT_TRUE(SetActiveCpuIsa(before).ok());
}

}  // namespace
}  // namespace paceline::kernels
