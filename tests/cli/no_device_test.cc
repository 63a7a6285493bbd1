// --device in a binary that has no code for GPUs.
#include "cli/device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::cli {
namespace {

TEST(NoDeviceTest, AutoIsTheCpu) {
  const auto choice = ChooseDevice({}, 0);
  ASSERT_TRUE(choice.ok()) << choice.status();
  EXPECT_TRUE(choice->is_cpu);
}

TEST(NoDeviceTest, CudaIsAnErrorThatSaysWhatIsMissing) {
  for (const EngineOptions& options :
       {EngineOptions{.device = "cuda"}, EngineOptions{.compute_dtype = "bf16"}}) {
    const absl::Status status = ChooseDevice(options, 0).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("PACELINE_CUDA=ON"));
  }
}

}  // namespace
}  // namespace paceline::cli
