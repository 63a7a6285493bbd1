#include "worker/runner/pulse.h"

#include "gtest/gtest.h"

namespace paceline::worker {
namespace {

// Until there are more than `beats`: a test that hangs has found the defect.
void AwaitMoreThan(const std::atomic<uint32_t>& counter, uint32_t beats) {
  while (counter.load() <= beats) std::this_thread::yield();
}

TEST(PulseTest, BeatsWhileTheRankWaitsAndWhileItWorks) {
  const auto beats = std::make_shared<std::atomic<uint32_t>>(0);
  Pulse pulse(beats);
  AwaitMoreThan(*beats, 0);
  pulse.Working();
  AwaitMoreThan(*beats, beats->load());
  pulse.Waiting();
  AwaitMoreThan(*beats, beats->load());
}

TEST(PulseTest, StopsWhenWorkTakesTooLong) {
  const auto beats = std::make_shared<std::atomic<uint32_t>>(0);
  const auto clock = std::make_shared<std::atomic<uint32_t>>(0);
  Pulse pulse(beats, /*max_work_ms=*/0);
  AwaitMoreThan(*beats, 0);
  pulse.Working();
  const uint32_t most = beats->load() + 1;  // one may be under way
  Pulse other(clock);
  AwaitMoreThan(*clock, 2);
  EXPECT_LE(beats->load(), most);
  pulse.Waiting();
  AwaitMoreThan(*beats, most);
}

TEST(PulseTest, IsStillWhenItHasEnded) {
  const auto beats = std::make_shared<std::atomic<uint32_t>>(0);
  { Pulse pulse(beats); }
  const uint32_t last = beats->load();
  std::this_thread::yield();
  EXPECT_EQ(beats->load(), last);
}

}  // namespace
}  // namespace paceline::worker
