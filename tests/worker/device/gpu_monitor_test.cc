#include "worker/device/gpu_monitor.h"

#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/device/nvml.h"

namespace paceline::worker {
namespace {

using testing::HasSubstr;

// Says what it is told to, then that nothing happens.
class FakeSensor final : public GpuSensor {
 public:
  using Wait = absl::StatusOr<std::optional<int64_t>>;
  explicit FakeSensor(std::vector<Wait> waits) : waits_(std::move(waits)) {}

  absl::StatusOr<GpuReading> Read() override {
    ++num_reads_;
    return GpuReading{.memory_used_bytes = num_reads_};
  }
  Wait WaitForXid(int64_t) override {
    if (waits_.empty()) return std::nullopt;
    Wait next = waits_.front();
    waits_.erase(waits_.begin());
    return next;
  }

 private:
  std::vector<Wait> waits_;
  int64_t num_reads_ = 0;
};

// A monitor, and what it said.
class Watched {
 public:
  explicit Watched(std::unique_ptr<GpuSensor> sensor)
      : monitor_(
            std::move(sensor),
            [this](const GpuReading& reading) {
              const std::lock_guard lock(mutex_);
              readings_.push_back(reading);
              changed_.notify_all();
            },
            [this](const std::string& fault) {
              const std::lock_guard lock(mutex_);
              fault_ = fault;
              changed_.notify_all();
            }) {}

  std::string WaitForFault() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !fault_.empty(); });
    return fault_;
  }
  std::vector<GpuReading> WaitForReadings(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return readings_.size() >= count; });
    return readings_;
  }

 private:
  std::mutex mutex_;  // guards the two below
  std::vector<GpuReading> readings_;
  std::string fault_;
  std::condition_variable changed_;
  GpuMonitor monitor_;  // last: its thread uses the others
};

TEST(GpuMonitorTest, AFatalXidIsAFault) {
  Watched watched(std::make_unique<FakeSensor>(
      std::vector<FakeSensor::Wait>{std::nullopt, std::optional<int64_t>(79)}));
  EXPECT_THAT(watched.WaitForFault(), HasSubstr("Xid 79"));
  EXPECT_EQ(watched.WaitForReadings(2).size(), 2U) << "and nothing is read after it";
}

TEST(GpuMonitorTest, TheXidOfAProgramsFaultIsNone) {
  Watched watched(std::make_unique<FakeSensor>(
      std::vector<FakeSensor::Wait>{std::optional<int64_t>(13), std::optional<int64_t>(48)}));
  EXPECT_THAT(watched.WaitForFault(), HasSubstr("Xid 48"));
}

TEST(GpuMonitorTest, AGpuThatDoesNotAnswerIsAFault) {
  Watched watched(std::make_unique<FakeSensor>(
      std::vector<FakeSensor::Wait>{absl::FailedPreconditionError("lost")}));
  EXPECT_THAT(watched.WaitForFault(), HasSubstr("lost"));
}

TEST(GpuMonitorTest, ReadingsAreHandedOn) {
  Watched watched(std::make_unique<FakeSensor>(std::vector<FakeSensor::Wait>{}));
  EXPECT_EQ(watched.WaitForReadings(3)[2].memory_used_bytes, 3);
}

// Through the library's own interface.
class NvmlTest : public testing::Test {
 protected:
  ~NvmlTest() override {
    unsetenv("FAKE_NVML_XID");
    unsetenv("FAKE_NVML_LOST");
  }
  static absl::StatusOr<std::unique_ptr<GpuSensor>> Open(const char* address = "0000:3B:00.0") {
    return OpenNvml(address, FAKE_NVML);
  }
};

TEST_F(NvmlTest, ReadsMemoryUtilisationAndXids) {
  const auto sensor = Open();
  ASSERT_TRUE(sensor.ok()) << sensor.status();
  const auto reading = (*sensor)->Read();
  ASSERT_TRUE(reading.ok()) << reading.status();
  EXPECT_EQ(reading->memory_used_bytes, 700);
  EXPECT_EQ(reading->memory_total_bytes, 1000);
  EXPECT_DOUBLE_EQ(reading->utilization, 0.25);
  EXPECT_EQ(*(*sensor)->WaitForXid(1), std::nullopt);
  setenv("FAKE_NVML_XID", "64", 1);
  EXPECT_EQ(*(*sensor)->WaitForXid(1), std::optional<int64_t>(64));
}

TEST_F(NvmlTest, ALostGpuIsAnErrorInItsWords) {
  const auto sensor = Open();
  ASSERT_TRUE(sensor.ok()) << sensor.status();
  setenv("FAKE_NVML_LOST", "1", 1);
  EXPECT_THAT(std::string((*sensor)->Read().status().message()), HasSubstr("GPU is lost"));
}

TEST_F(NvmlTest, WhatIsMissingIsSaid) {
  EXPECT_THAT(std::string(Open("0000:00:00.0").status().message()), HasSubstr("Not Found"));
  EXPECT_THAT(std::string(OpenNvml("0000:3B:00.0", "libno-such.so.1").status().message()),
              HasSubstr("libno-such.so.1"));
}

}  // namespace
}  // namespace paceline::worker
