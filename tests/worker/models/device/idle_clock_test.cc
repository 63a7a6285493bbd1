#include "worker/models/device/idle_clock.h"

#include <chrono>
#include <thread>

#include "gtest/gtest.h"

namespace paceline::worker {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

void Step(IdleClock& clock) {
  ASSERT_TRUE(clock.BeginStep(nullptr).ok());
  ASSERT_TRUE(clock.EndStep(nullptr).ok());
}

TEST(IdleClockTest, MeasuresFromTheEndOfAStepToTheBeginningOfTheNext) {
  auto clock = IdleClock::Create();
  ASSERT_TRUE(clock.ok());
  auto before_end = steady_clock::now();
  Step(**clock);
  EXPECT_EQ((*clock)->ReadNs().value(), -1);
  for (int i = 0; i < 6; ++i) {
    std::this_thread::sleep_for(milliseconds(3));
    ASSERT_TRUE((*clock)->BeginStep(nullptr).ok());
    const int64_t at_most = (steady_clock::now() - before_end).count();
    EXPECT_EQ((*clock)->ReadNs().value(), -1);
    std::this_thread::sleep_for(milliseconds(5));  // at work
    before_end = steady_clock::now();
    ASSERT_TRUE((*clock)->EndStep(nullptr).ok());
    const int64_t idle_ns = (*clock)->ReadNs().value();
    EXPECT_GE(idle_ns, 3'000'000);
    EXPECT_LE(idle_ns, at_most);
    EXPECT_EQ((*clock)->ReadNs().value(), -1) << "once";
  }
}

TEST(IdleClockTest, APassWithoutAnswersIsNoIdleTime) {
  auto clock = IdleClock::Create();
  ASSERT_TRUE(clock.ok());
  Step(**clock);
  ASSERT_TRUE((*clock)->BeginStep(nullptr).ok());  // a part of a prompt
  Step(**clock);
  EXPECT_EQ((*clock)->ReadNs().value(), -1);
  Step(**clock);
  EXPECT_GE((*clock)->ReadNs().value(), 0);
}

TEST(IdleClockTest, AnswersInPartsEndAStepOnce) {
  auto clock = IdleClock::Create();
  ASSERT_TRUE(clock.ok());
  Step(**clock);
  Step(**clock);
  EXPECT_GE((*clock)->ReadNs().value(), 0);
  ASSERT_TRUE((*clock)->EndStep(nullptr).ok());
  EXPECT_EQ((*clock)->ReadNs().value(), -1);
}

}  // namespace
}  // namespace paceline::worker
