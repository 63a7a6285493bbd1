#include "router/dispatch/quarantine.h"

#include <vector>

#include "gtest/gtest.h"

namespace paceline::router {
namespace {

TEST(QuarantineTest, RemembersForItsTime) {
  Quarantine quarantine(1'000);
  const std::vector<int32_t> prompt = {1, 2, 3};
  const BlockHash print = Quarantine::Fingerprint("m", "t", "s", prompt);
  EXPECT_FALSE(quarantine.Contains(print, 0));
  quarantine.Add(print, 0);
  EXPECT_TRUE(quarantine.Contains(print, 999'999'999));
  EXPECT_FALSE(quarantine.Contains(print, 1'000'000'000));
  EXPECT_TRUE(quarantine.empty());
}

TEST(QuarantineTest, TellsRequestsApart) {
  const std::vector<int32_t> a = {1, 2, 3};
  const std::vector<int32_t> b = {1, 2, 4};
  EXPECT_NE(Quarantine::Fingerprint("m", "t", "s", a), Quarantine::Fingerprint("m", "t", "s", b));
  EXPECT_NE(Quarantine::Fingerprint("m", "t", "s", a), Quarantine::Fingerprint("m", "u", "s", a));
  EXPECT_NE(Quarantine::Fingerprint("m", "t", "s", a), Quarantine::Fingerprint("m", "t", "r", a));
}

TEST(QuarantineTest, IsBounded) {
  Quarantine quarantine(1'000);
  for (uint64_t i = 0; i < 2 * Quarantine::kMaxEntries; ++i) quarantine.Add({i, i}, 0);
  EXPECT_TRUE(quarantine.Contains({0, 0}, 1));
  EXPECT_FALSE(quarantine.Contains({Quarantine::kMaxEntries, Quarantine::kMaxEntries}, 1));
  quarantine.Add({9999, 9999}, 2'000'000'000);  // the old ones have expired
  EXPECT_TRUE(quarantine.Contains({9999, 9999}, 2'000'000'001));
}

}  // namespace
}  // namespace paceline::router
