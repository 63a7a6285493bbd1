#include "worker/runner/numerics.h"

#include <set>

#include "gtest/gtest.h"
#include "kernels/dispatch.h"

namespace paceline::worker {
namespace {

using kernels::ComputeType;
using kernels::DType;

TEST(NumericsTest, IsTheSameForTheSame) {
  EXPECT_EQ(Numerics("d", "1.0", ComputeType::kInt8, DType::kF16),
            Numerics("d", "1.0", ComputeType::kInt8, DType::kF16));
}

TEST(NumericsTest, EverythingThatChangesBitsChangesIt) {
  const kernels::CpuIsa before = kernels::ActiveCpuIsa();
  std::set<std::string> seen;
  size_t count = 0;
  for (const auto isa : {kernels::CpuIsa::kPortable, kernels::CpuIsa::kAvx2}) {
    if (!kernels::SetActiveCpuIsa(isa).ok()) continue;  // not on this machine
    for (const char* digest : {"d", "e"}) {
      for (const char* release : {"1.0", "1.1"}) {
        for (const auto compute : {ComputeType::kInt8, ComputeType::kFloat32}) {
          for (const auto kv_dtype : {DType::kF16, DType::kI8, DType::kF32}) {
            for (const int32_t ranks : {1, 2, 3}) {
              seen.insert(Numerics(digest, release, compute, kv_dtype, ranks));
              ++count;
            }
          }
        }
        for (const auto kv_dtype : {DType::kF16, DType::kBF16, DType::kI8, DType::kE4M3}) {
          for (const char* device : {"cuda-sm_80-bf16", "cuda-sm_90-bf16", "cuda-sm_90-f16"}) {
            for (const int32_t ranks : {1, 2}) {
              seen.insert(
                  Numerics(digest, release, ComputeType::kFloat32, kv_dtype, ranks, device));
              ++count;
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), count);
  EXPECT_TRUE(kernels::SetActiveCpuIsa(before).ok());
}

// Their kernels give the same bits (tests/kernels/same_bits_test.cc).
TEST(NumericsTest, IsTheSameForAllTunedInstructionSets) {
  const kernels::CpuIsa before = kernels::ActiveCpuIsa();
  std::set<std::string> seen;
  for (const auto isa : kernels::kAllCpuIsas) {
    if (isa == kernels::CpuIsa::kPortable || !kernels::SetActiveCpuIsa(isa).ok()) continue;
    seen.insert(Numerics("d", "1.0", ComputeType::kInt8, DType::kF16));
  }
  EXPECT_LE(seen.size(), 1);
  EXPECT_TRUE(kernels::SetActiveCpuIsa(before).ok());
}

}  // namespace
}  // namespace paceline::worker
