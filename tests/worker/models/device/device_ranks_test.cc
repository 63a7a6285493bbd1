// A tiny Llama on several emulated devices: whatever its ranks exchange with, the bits are those of
// one rank. NCCL is a false one.
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/emulation/runtime.h"
#include "tests/fakes/engine_harness.h"
#include "tests/fakes/log_capture.h"
#include "tests/fakes/tiny_model.h"
#include "worker/models/device/registry.h"

namespace paceline::worker {
namespace {

constexpr char kNoNccl[] = "libno_such_nccl.so.2";

// Heads, hidden and inner columns that do not divide evenly by three.
EngineHarness::Options OnDevices(int32_t tensor_size, int32_t num_stages, const char* nccl) {
  kernels::emulation::SetNumDevices(tensor_size * num_stages);
  return {.model = {.num_layers = 2,
                    .hidden_size = 64,
                    .num_heads = 6,
                    .num_kv_heads = 2,
                    .head_dim = 64,
                    .intermediate_size = 160,
                    .weight_type = model::TensorType::kQ4_1,
                    .embedding_type = model::TensorType::kQ8_0},
          .num_blocks = 64,
          .max_num_batched_tokens = 64,
          .compute = kernels::ComputeType::kFloat32,
          .kv_dtype = kernels::DType::kBF16,
          .tensor_size = tensor_size,
          .num_stages = num_stages,
          .load = &LoadDeviceModel,
          .device = {.dtype = kernels::DType::kBF16, .nccl_library = nccl},
          .own_devices = true};
}

// One greedy, one drawn with all log-probabilities asked for; the second in two chunks.
std::vector<Request> Requests() {
  std::vector<Request> requests;
  for (int32_t i = 0; i < 2; ++i) {
    requests.push_back(
        EngineHarness::MakeRequest(absl::StrCat("r", i), EngineHarness::Prompt(3 + i * 70, i), 4));
  }
  requests[1].sampling.temperature = 0.9F;
  requests[1].sampling.logprobs = -1;
  requests[1].seed = 100;
  return requests;
}

std::vector<Answer> Answers(const EngineHarness::Options& options) {
  EngineHarness engine(options);
  std::vector<Answer> answers;
  for (const Request& request : Requests()) engine.Submit(request);
  for (const Request& request : Requests()) answers.push_back(engine.Wait(request.id));
  return answers;
}

void ExpectSame(const std::vector<Answer>& answers, const std::vector<Answer>& expected) {
  ASSERT_EQ(answers.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(answers[i].token_ids.size(), 4U) << i;
    EXPECT_TRUE(SameAnswer(answers[i], expected[i])) << i;
  }
}

const std::vector<Answer>& OfOneRank() {
  static const auto* const answers = new std::vector<Answer>(Answers(OnDevices(1, 1, kNoNccl)));
  return *answers;
}

struct Layout {
  int32_t tensor_size;
  int32_t num_stages;
  int64_t peer_bytes = 0;
};

// Of three tokens' hidden states, which is less than some steps have, and more than others.
constexpr int64_t kFewBytes = int64_t{3} * 64 * 4;

class DeviceRanksTest : public testing::TestWithParam<Layout> {};

TEST_P(DeviceRanksTest, RanksOverNcclGiveTheBitsOfOne) {
  OfOneRank();
  LogCapture log;
  EngineHarness::Options options =
      OnDevices(GetParam().tensor_size, GetParam().num_stages, FAKE_NCCL);
  options.device.peer_bytes = GetParam().peer_bytes;
  const int64_t graphs = kernels::emulation::NumGraphStarts();
  ExpectSame(Answers(options), OfOneRank());
  EXPECT_EQ(kernels::emulation::NumGraphStarts() > graphs,
            GetParam().tensor_size == 1 || GetParam().peer_bytes > 0);
  EXPECT_TRUE(absl::StrContains(log.text(), "ranks exchange over NCCL 2.28.9")) << log.text();
  EXPECT_EQ(absl::StrContains(log.text(), "few rows over memory that their devices share"),
            GetParam().peer_bytes > 0)
      << log.text();
}

INSTANTIATE_TEST_SUITE_P(
    Layouts,
    DeviceRanksTest,
    testing::Values(Layout{2, 1},
                    Layout{3, 1},
                    Layout{1, 2},
                    Layout{3, 2},
                    Layout{2, 1, kFewBytes},
                    Layout{3, 1, 512 << 10},
                    Layout{3, 2, kFewBytes}),
    [](const auto& info) {
      return absl::StrCat(
          "T", info.param.tensor_size, "P", info.param.num_stages, "Peers", info.param.peer_bytes);
    });

TEST(DeviceRanksTest, OneDeviceThatReachesNoMemoryHasAllGoWithout) {
  OfOneRank();
  LogCapture log;
  kernels::emulation::FailNextMap();
  ExpectSame(Answers(OnDevices(2, 1, FAKE_NCCL)), OfOneRank());
  EXPECT_TRUE(absl::StrContains(log.text(), "devices of ranks share no memory: rank "))
      << log.text();
  EXPECT_TRUE(absl::StrContains(log.text(), "the device has no way to it")) << log.text();
  EXPECT_FALSE(absl::StrContains(log.text(), "few rows over memory")) << log.text();
}

TEST(DeviceRanksTest, WithoutNcclRanksExchangeThroughTheirHost) {
  OfOneRank();
  LogCapture log;
  ExpectSame(Answers(OnDevices(2, 1, kNoNccl)), OfOneRank());
  EXPECT_TRUE(absl::StrContains(log.text(),
                                "ranks exchange through their hosts' memory: rank 0 has no NCCL"))
      << log.text();
  EXPECT_TRUE(absl::StrContains(log.text(), kNoNccl)) << log.text();
}

TEST(DeviceRanksTest, RanksThatShareADeviceUseNcclOnlyWhereItLets) {
  EngineHarness::Options options = OnDevices(2, 1, FAKE_NCCL);
  options.own_devices = false;
  {
    LogCapture log;
    const EngineHarness engine(options);
    EXPECT_TRUE(absl::StrContains(log.text(), "ranks 0 and 1 have one device between them"))
        << log.text();
  }
  options.device.nccl_shares_devices = true;
  LogCapture log;
  const EngineHarness engine(options);
  EXPECT_TRUE(absl::StrContains(log.text(), "ranks exchange over NCCL")) << log.text();
  EXPECT_TRUE(absl::StrContains(log.text(), "share no memory: ranks 0 and 1 have one device"))
      << log.text();
}

// Every second pass, so graphs and passes that are timed come by turns.
TEST(DeviceRanksTest, ExchangesAreTimedAndChangeNoBits) {
  EngineHarness::Options options = OnDevices(2, 1, FAKE_NCCL);
  options.device.timed_passes = 2;
  options.has_gpu = true;
  EngineHarness engine(options);
  std::vector<Answer> answers;
  for (const Request& request : Requests()) engine.Submit(request);
  for (const Request& request : Requests()) answers.push_back(engine.Wait(request.id));
  ExpectSame(answers, OfOneRank());
  engine.WaitUntilIdle();
  ASSERT_EQ(engine.metrics().ranks.size(), 2U);
  for (const RankSeries& rank : engine.metrics().ranks) {
    EXPECT_GT(rank.device_exchange_seconds->Value(), 0);
    EXPECT_GT(rank.device_seconds->Value(), rank.device_exchange_seconds->Value());
  }
}

// Rounding of its own, but the same whatever brings the parts, and in any batch.
TEST(DeviceRanksTest, SumsAreTheSameOverNcclPeersAndThroughTheHost) {
  EngineHarness::Options options = OnDevices(2, 1, kNoNccl);
  options.tensor_mode = TensorMode::kFast;
  const std::vector<Answer> through_host = Answers(options);
  options.device.nccl_library = FAKE_NCCL;
  for (const int64_t peer_bytes : {int64_t{0}, kFewBytes, options.device.peer_bytes}) {
    options.device.peer_bytes = peer_bytes;
    ExpectSame(Answers(options), through_host);
  }
  EngineHarness alone(options);
  EXPECT_TRUE(SameAnswer(alone.Run(Requests()[1]), through_host[1]));
}

}  // namespace
}  // namespace paceline::worker
