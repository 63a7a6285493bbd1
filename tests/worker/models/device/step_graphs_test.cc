#include "worker/models/device/step_graphs.h"

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "kernels/sampling/logits_device.h"
#include "worker/device/device_memory.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;

// A pass that finds the best of one row of 64.
class StepGraphsTest : public testing::Test {
 protected:
  StepGraphsTest() { std::fill_n(row_.as<float>(), 64, 0.0F); }

  absl::Status Run(const StepShape& shape) {
    return graphs_.Run(nullptr, shape, [&] {
      ++num_enqueued_;
      return kernels::DeviceArgMax(
          nullptr, {row_.as<float>(), 64, 1, 64}, best_.as<kernels::DeviceBestLogit>());
    });
  }
  int32_t best() const { return best_.as<kernels::DeviceBestLogit>()->id; }

  int64_t bytes_ = 0;
  DeviceBuffer row_ = DeviceBuffer::Allocate(256, bytes_).value();
  DeviceBuffer best_ = DeviceBuffer::Allocate(64, bytes_).value();
  StepGraphs graphs_;
  int num_enqueued_ = 0;
};

TEST_F(StepGraphsTest, ReadsMemoryAnewEachTime) {
  for (const int32_t id : {5, 63, 0, 12}) {
    row_.as<float>()[id] = static_cast<float>(100 - id);
    ASSERT_EQ(Run({.rows = 1}), absl::OkStatus());
    EXPECT_EQ(best(), id);
    row_.as<float>()[id] = 0;
  }
  EXPECT_EQ(num_enqueued_, 2) << "as it is, then for the graph";
}

TEST_F(StepGraphsTest, AShapeHasItsOwnAndTheLeastRecentlyStartedGivesWay) {
  for (int32_t rows = 1; rows <= 128; ++rows) {
    for (int time = 0; time < 3; ++time) ASSERT_EQ(Run({.rows = rows}), absl::OkStatus());
  }
  EXPECT_EQ(num_enqueued_, 256);
  ASSERT_EQ(Run({.rows = 1}), absl::OkStatus());
  ASSERT_EQ(Run({.rows = 1, .version = 1}), absl::OkStatus());  // instead of that of 2 rows
  EXPECT_EQ(num_enqueued_, 257);
  ASSERT_EQ(Run({.rows = 1}), absl::OkStatus());
  ASSERT_EQ(Run({.rows = 3}), absl::OkStatus());
  EXPECT_EQ(num_enqueued_, 257);
  ASSERT_EQ(Run({.rows = 2}), absl::OkStatus());
  EXPECT_EQ(num_enqueued_, 258);
  graphs_.Clear();
  ASSERT_EQ(Run({.rows = 1}), absl::OkStatus());
  EXPECT_EQ(num_enqueued_, 259);
}

TEST_F(StepGraphsTest, WhatCannotBeCapturedIsAnErrorAndNoGraph) {
  const auto wait = [] { return device::Synchronize(nullptr); };
  const auto run = [&] { return graphs_.Run(nullptr, {.rows = 1}, wait); };
  EXPECT_EQ(run(), absl::OkStatus());
  EXPECT_EQ(run().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(run(), absl::OkStatus());
  EXPECT_EQ(device::Synchronize(nullptr), absl::OkStatus()) << "nothing is captured any more";
}

}  // namespace
}  // namespace paceline::worker
