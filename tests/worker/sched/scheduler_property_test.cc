// Random operation sequences: everything accepted ends, with the output it has alone, within the
// bound, and every block comes back (reliability F15, F16).
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "tests/worker/sched/random_ops.h"

namespace paceline::worker {
namespace {

class SchedulerPropertyTest : public testing::TestWithParam<int> {};

TEST_P(SchedulerPropertyTest, KeepsItsInvariantsUnderRandomOperations) {
  RandomOpsReport total;
  for (int seed = 0; seed < 300; ++seed) {
    std::mt19937 random(GetParam() * 1000 + seed);
    std::vector<uint8_t> bytes(200 + random() % 800);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    SCOPED_TRACE(seed);
    const RandomOpsReport report = RunRandomOps(bytes);
    total.steps += report.steps;
    total.finished += report.finished;
    total.preemptions += report.preemptions;
    total.cached_tokens += report.cached_tokens;
    total.copies += report.copies;
    total.evictions += report.evictions;
    total.ahead += report.ahead;
    total.dropped += report.dropped;
  }
  // The runs reached what they are meant to test.
  EXPECT_GT(total.steps, 10'000);
  EXPECT_GT(total.finished, 5'000);
  EXPECT_GT(total.preemptions, 500);
  EXPECT_GT(total.cached_tokens, 5'000);
  EXPECT_GT(total.copies, 200);
  EXPECT_GT(total.evictions, 500);
  EXPECT_GT(total.ahead, 300);
  EXPECT_GT(total.dropped, 50);
  RecordProperty("ahead", static_cast<int>(total.ahead));
  RecordProperty("dropped", static_cast<int>(total.dropped));
  RecordProperty("steps", static_cast<int>(total.steps));
  RecordProperty("preemptions", static_cast<int>(total.preemptions));
}

INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerPropertyTest, testing::Range(0, 10));

}  // namespace
}  // namespace paceline::worker
