// A device that fails for good: in a child process, since nothing there can use it any more.
#include <unistd.h>

#include <cstdio>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/device/runtime.h"
#include "kernels/emulation/runtime.h"
#include "tests/fakes/engine_harness.h"
#include "worker/models/device/registry.h"
#include "worker/runner/rank_group.h"

namespace paceline::worker {
namespace {

using testing::AllOf;
using testing::ExitedWithCode;
using testing::HasSubstr;

// Serves a request, and one more when the device is broken.
void ServeAndBreak() {
  dup2(STDERR_FILENO, STDOUT_FILENO);  // where the log goes
  EngineHarness engine({.model = {.head_dim = 64},
                        .max_num_batched_tokens = 64,
                        .compute = kernels::ComputeType::kFloat32,
                        .kv_dtype = kernels::DType::kBF16,
                        .load = &LoadDeviceModel});
  const auto request = [](const char* id) {
    return EngineHarness::MakeRequest(id, EngineHarness::Prompt(20, 1), 2);
  };
  if (engine.Run(request("before")).token_ids.size() != 2) _exit(1);
  std::fputs("served\n", stderr);
  kernels::emulation::BreakDevice();
  engine.Run(request("after"));
  _exit(0);
}

class DeviceFaultDeathTest : public testing::Test {
 protected:
  DeviceFaultDeathTest() { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(DeviceFaultDeathTest, EndsTheProcessWithTheErrorsText) {
  EXPECT_EXIT(ServeAndBreak(),
              ExitedWithCode(kLostRankExit),
              AllOf(HasSubstr("served"), HasSubstr("replica ends: the GPU has failed")));
}

TEST_F(DeviceFaultDeathTest, IsUnavailableInEveryLaterCall) {
  const auto codes = [] {
    const auto stream = kernels::device::CreateStream();
    kernels::emulation::BreakDevice();
    for (int i = 0; i < 3; ++i) {
      const absl::Status status = kernels::device::Synchronize(*stream);
      if (status.code() != absl::StatusCode::kUnavailable) _exit(1);
    }
    _exit(0);
  };
  EXPECT_EXIT(codes(), ExitedWithCode(0), "");
}

}  // namespace
}  // namespace paceline::worker
