// Where --device puts a model, in a binary whose GPUs are one emulated device.
#include "cli/device.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/emulation/runtime.h"

namespace paceline::cli {
namespace {

using kernels::DType;
using testing::HasSubstr;

DeviceChoice Choose(const EngineOptions& options, int32_t local_rank = 0) {
  const auto choice = ChooseDevice(options, local_rank);
  EXPECT_TRUE(choice.ok()) << choice.status();
  return choice.ok() ? *choice : DeviceChoice{};
}

TEST(DeviceTest, AutoTakesAGpuWhereThereIsOne) {
  const DeviceChoice choice = Choose({});
  EXPECT_FALSE(choice.is_cpu);
  EXPECT_EQ(choice.place.dtype, DType::kBF16);
  EXPECT_EQ(choice.kv_dtype, DType::kBF16);
  EXPECT_EQ(choice.kind, "cuda-emulation-bf16");
  EXPECT_THAT(choice.description, HasSubstr("cuda:0"));
  EXPECT_DOUBLE_EQ(choice.place.memory_utilization, 0.9);
}

TEST(DeviceTest, CpuIsTheCpu) {
  const DeviceChoice choice = Choose({.device = "cpu"});
  EXPECT_TRUE(choice.is_cpu);
  EXPECT_EQ(choice.kind, "");
  EXPECT_EQ(choice.compute, kernels::ComputeType::kInt8);
  EXPECT_EQ(choice.kv_dtype, DType::kF16);
}

TEST(DeviceTest, AutoGoesWhereTheTypesAre) {
  EXPECT_TRUE(Choose({.compute_dtype = "float32"}).is_cpu);
  EXPECT_EQ(Choose({.compute_dtype = "float32"}).kv_dtype, DType::kF32);
  EXPECT_EQ(Choose({.kv_cache_dtype = "int8"}).kv_dtype, DType::kI8);
  EXPECT_EQ(Choose({.kv_cache_dtype = "fp8"}).kv_dtype, DType::kE4M3);
  const DeviceChoice f16 = Choose({.compute_dtype = "f16", .kv_cache_dtype = "f16"});
  EXPECT_FALSE(f16.is_cpu);
  EXPECT_EQ(f16.kv_dtype, DType::kF16);
  EXPECT_NE(f16.kind, Choose({}).kind) << "other bits";
  const DeviceChoice wgmma = Choose({.prefill_attention = "wgmma"});
  EXPECT_TRUE(wgmma.place.wgmma_prefill);
  EXPECT_EQ(wgmma.kind, "cuda-emulation-bf16-wgmma") << "perhaps other bits";
}

TEST(DeviceTest, TypesThatADeviceDoesNotHaveAreInvalid) {
  const auto code = [](const EngineOptions& options) {
    return ChooseDevice(options, 0).status().code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.device = "cuda", .compute_dtype = "float32"}), kInvalid);
  EXPECT_EQ(code({.device = "cuda", .kv_cache_dtype = "f16"}), kInvalid) << "bf16 is computed";
  EXPECT_EQ(code({.device = "cpu", .compute_dtype = "bf16"}), kInvalid);
  EXPECT_EQ(code({.device = "cpu", .kv_cache_dtype = "fp8"}), kInvalid);
  EXPECT_EQ(code({.device = "cpu", .prefill_attention = "wgmma"}), kInvalid);
}

// Replicas and ranks of a host, in order; a host's ranks count from its first.
TEST(DeviceTest, RanksTakeGpusInTurn) {
  kernels::emulation::SetNumDevices(8);
  const auto index = [](const EngineOptions& options, int32_t local_rank) {
    return Choose(options, local_rank).place.index;
  };
  EngineOptions options{.tensor_parallel_size = 2, .pipeline_parallel_size = 2};
  for (const int32_t rank : {0, 1, 2, 3}) EXPECT_EQ(index(options, rank), rank);
  options.replicas_on_host = 2;
  options.replica_on_host = 1;
  for (const int32_t rank : {0, 1, 2, 3}) EXPECT_EQ(index(options, rank), 4 + rank);
  options.num_nodes = 2;  // two ranks of either replica on this host
  for (const int32_t rank : {0, 1}) EXPECT_EQ(index(options, rank), 2 + rank);
  EXPECT_DOUBLE_EQ(Choose(options, 1).place.memory_utilization, 0.9) << "a GPU of its own";
  kernels::emulation::SetNumDevices(3);
  options = {.tensor_parallel_size = 4};
  EXPECT_EQ(index(options, 3), 0);
  EXPECT_DOUBLE_EQ(Choose(options, 0).place.memory_utilization, 0.9 / 2) << "shared with rank 3";
  EXPECT_DOUBLE_EQ(Choose(options, 1).place.memory_utilization, 0.9);
  kernels::emulation::SetNumDevices(1);
}

TEST(DeviceTest, ThoseThatShareAGpuShareItsMemory) {
  const EngineOptions options{.tensor_parallel_size = 2, .replicas_on_host = 2};
  for (const int32_t rank : {0, 1}) {
    EXPECT_DOUBLE_EQ(Choose(options, rank).place.memory_utilization, 0.9 / 4);
  }
}

}  // namespace
}  // namespace paceline::cli
