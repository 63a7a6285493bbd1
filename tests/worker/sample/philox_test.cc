#include "worker/sample/philox.h"

#include <algorithm>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/sample/philox_block.h"

namespace paceline::worker {
namespace {

using ::testing::ElementsAre;

// Random123 1.09, tests/kat_vectors, lines "philox4x32 10".
TEST(PhiloxTest, GivesThePublishedKnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(
      Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
      ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(
      Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
      ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

class PhiloxBlockTest : public ::testing::TestWithParam<kernels::CpuIsa> {
 protected:
  void SetUp() override {
    if (!kernels::SetActiveCpuIsa(GetParam()).ok()) GTEST_SKIP() << "not supported here";
    block_ = &kernels::Select(kPhiloxBlock);
  }
  void TearDown() override { ASSERT_TRUE(kernels::SetActiveCpuIsa(before_).ok()); }

  const PhiloxBlockTable* block_ = nullptr;

 private:
  const kernels::CpuIsa before_ = kernels::ActiveCpuIsa();
};

TEST_P(PhiloxBlockTest, GivesTheWordsOfSixteenCounters) {
  std::mt19937 engine(1);
  const auto rng = [&] { return static_cast<uint32_t>(engine()); };
  for (int trial = 0; trial < 200; ++trial) {
    const PhiloxCounter first = {rng() >> 1, rng(), rng(), rng()};
    const PhiloxKey key = {rng(), rng()};
    uint32_t words[4][kPhiloxBlockCounters];
    ASSERT_TRUE(block_->words_at_least(first.data(), key.data(), 0, words));
    for (uint32_t i = 0; i < kPhiloxBlockCounters; ++i) {
      const auto expected = Philox4x32({first[0] + i, first[1], first[2], first[3]}, key);
      for (int lane = 0; lane < 4; ++lane) ASSERT_EQ(words[lane][i], expected[lane]);
    }
  }
}

TEST_P(PhiloxBlockTest, TellsWhetherAnyWordReachesTheCutoff) {
  const PhiloxCounter first = {1024, 7, 0, 0};
  const PhiloxKey key = {42, 43};
  uint32_t words[4][kPhiloxBlockCounters];
  ASSERT_TRUE(block_->words_at_least(first.data(), key.data(), 0, words));
  uint32_t largest = 0;
  for (const auto& lane : words) largest = std::max(largest, *std::max_element(lane, lane + 16));
  EXPECT_TRUE(block_->words_at_least(first.data(), key.data(), largest, words));
  EXPECT_FALSE(block_->words_at_least(first.data(), key.data(), largest + 1, words));
}

TEST_P(PhiloxBlockTest, FindsTheLargestOf64) {
  std::mt19937 rng(2);
  std::normal_distribution<float> normal(-5, 3);
  for (int at = 0; at < 64; ++at) {
    std::vector<float> values(64);
    for (float& v : values) v = normal(rng);
    values[at] = 100;
    EXPECT_EQ(block_->max64(values.data()), 100);
    values.assign(64, -std::numeric_limits<float>::infinity());
    values[at] = -7;
    EXPECT_EQ(block_->max64(values.data()), -7);
  }
}

INSTANTIATE_TEST_SUITE_P(Isas,
                         PhiloxBlockTest,
                         ::testing::ValuesIn(kernels::kAllCpuIsas),
                         [](const auto& info) {
                           return std::string(kernels::CpuIsaName(info.param));
                         });

}  // namespace
}  // namespace paceline::worker
