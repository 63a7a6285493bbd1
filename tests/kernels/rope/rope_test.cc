#include "kernels/rope/rope.h"

#include <cmath>
#include <complex>
#include <vector>

#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

RopeTable MakeTable(RopeTable::Options options) {
  auto table = RopeTable::Create(options);
  EXPECT_TRUE(table.ok()) << table.status();
  return *std::move(table);
}

class RopeTest : public IsaTest {
 protected:
  ThreadPool pool_{2, false};
};

// Element i of a pair and the pair's number turn as complex numbers do.
void ExpectTurned(const std::vector<float>& before,
                  const std::vector<float>& after,
                  RopeStyle style,
                  const std::vector<int32_t>& positions,
                  int32_t head_dim,
                  int32_t rotary_dim,
                  const std::vector<double>& frequencies) {
  const int64_t cols = static_cast<int64_t>(before.size() / positions.size());
  for (size_t row = 0; row < positions.size(); ++row) {
    for (int64_t head = 0; head < cols; head += head_dim) {
      const size_t at = row * cols + head;
      for (int32_t i = 0; i < rotary_dim / 2; ++i) {
        const bool interleaved = style == RopeStyle::kInterleaved;
        const size_t a = at + (interleaved ? 2 * i : i);
        const size_t b = at + (interleaved ? 2 * i + 1 : i + rotary_dim / 2);
        const std::complex<double> turned = std::complex<double>(before[a], before[b]) *
                                            std::polar(1.0, positions[row] * frequencies[i]);
        EXPECT_NEAR(after[a], turned.real(), 1e-6);
        EXPECT_NEAR(after[b], turned.imag(), 1e-6);
      }
      for (int32_t i = rotary_dim; i < head_dim; ++i) EXPECT_EQ(after[at + i], before[at + i]);
    }
  }
}

std::vector<double> Frequencies(double theta, int32_t rotary_dim) {
  std::vector<double> frequencies;
  for (int32_t i = 0; i < rotary_dim / 2; ++i) {
    frequencies.push_back(std::pow(theta, -2.0 * i / rotary_dim));
  }
  return frequencies;
}

TEST_P(RopeTest, TurnsPairsByPositionTimesFrequency) {
  const std::vector<int32_t> positions = {0, 1, 7, 2047};
  for (RopeStyle style : {RopeStyle::kInterleaved, RopeStyle::kHalf}) {
    for (int32_t rotary_dim : {64, 32, 2}) {
      const RopeTable table =
          MakeTable({.rotary_dim = rotary_dim, .max_positions = 2048, .theta = 100000});
      const std::vector<float> before = RandomFloats(4 * 3 * 64, 1);
      std::vector<float> after(before);
      ASSERT_TRUE(
          ApplyRope(pool_, table, style, positions, 64, MutableMatrix(after.data(), 4, 192)).ok());
      ExpectTurned(
          before, after, style, positions, 64, rotary_dim, Frequencies(100000, rotary_dim));
    }
  }
}

TEST_P(RopeTest, LinearScalingAndFactorsStretchTheAngles) {
  const std::vector<float> factors = {1, 2, 4, 8};
  const RopeTable table = MakeTable({.rotary_dim = 8,
                                     .max_positions = 100,
                                     .theta = 10000,
                                     .position_scale = 0.25,
                                     .frequency_factors = factors});
  std::vector<double> frequencies = Frequencies(10000, 8);
  for (int i = 0; i < 4; ++i) frequencies[i] *= 0.25 / factors[i];
  const std::vector<int32_t> positions = {5, 99};
  const std::vector<float> before = RandomFloats(16, 2);
  std::vector<float> after(before);
  ASSERT_TRUE(
      ApplyRope(
          pool_, table, RopeStyle::kInterleaved, positions, 8, MutableMatrix(after.data(), 2, 8))
          .ok());
  ExpectTurned(before, after, RopeStyle::kInterleaved, positions, 8, 8, frequencies);
}

TEST_P(RopeTest, LeavesOtherColumnsAlone) {
  const RopeTable table = MakeTable({.rotary_dim = 8, .max_positions = 10});
  std::vector<float> x = RandomFloats(3 * 24, 3);
  const std::vector<float> before(x);
  ASSERT_TRUE(ApplyRope(pool_,
                        table,
                        RopeStyle::kInterleaved,
                        {1, 2, 3},
                        8,
                        MutableMatrix(x.data(), 3, 24).Columns(0, 16))
                  .ok());
  for (size_t i = 0; i < x.size(); ++i) {
    if (i % 24 >= 16) {
      EXPECT_EQ(x[i], before[i]);
    } else {
      EXPECT_NE(x[i], before[i]);
    }
  }
}

TEST_P(RopeTest, WrongInputsAreInvalid) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const RopeTable table = MakeTable({.rotary_dim = 8, .max_positions = 10});
  std::vector<float> x(32);
  const auto apply = [&](absl::Span<const int32_t> positions, int32_t head_dim, int64_t cols) {
    return ApplyRope(pool_,
                     table,
                     RopeStyle::kHalf,
                     positions,
                     head_dim,
                     MutableMatrix(x.data(), 2, cols))
        .code();
  };
  EXPECT_EQ(apply({0, 9}, 8, 16), absl::StatusCode::kOk);
  EXPECT_EQ(apply({0, 10}, 8, 16), kInvalid);
  EXPECT_EQ(apply({-1, 0}, 8, 16), kInvalid);
  EXPECT_EQ(apply({0}, 8, 16), kInvalid);
  EXPECT_EQ(apply({0, 1}, 8, 12), kInvalid);
  EXPECT_EQ(apply({0, 1}, 4, 16), kInvalid);
  EXPECT_EQ(RopeTable::Create({.rotary_dim = 7, .max_positions = 10}).status().code(), kInvalid);
  EXPECT_EQ(RopeTable::Create({.rotary_dim = 8, .max_positions = 0}).status().code(), kInvalid);
  const std::vector<float> factors(3, 1.0f);
  EXPECT_EQ(RopeTable::Create({.rotary_dim = 8, .max_positions = 1, .frequency_factors = factors})
                .status()
                .code(),
            kInvalid);
}

INSTANTIATE_TEST_SUITE_P(Isas, RopeTest, AllIsas(), IsaTestName);

}  // namespace
}  // namespace paceline::kernels
