#include "worker/models/best_logit.h"

#include <cmath>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "worker/comm/shm_communicator.h"

namespace paceline::worker {
namespace {

constexpr int kRanks = 3;
constexpr int64_t kColumns = 50;
constexpr int64_t kEnds[] = {0, 7, 8, kColumns};  // uneven shares

using Rows = std::vector<std::vector<float>>;

// What all ranks have in the end.
std::vector<BestLogit> Merge(const Rows& rows) {
  const auto group = *ShmGroup::Create({.size = kRanks});
  std::vector<std::vector<BestLogit>> results(kRanks);
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      const auto comm = JoinShmGroup(group, rank, {});
      ASSERT_TRUE(comm.ok()) << comm.status();
      std::vector<BestLogit>& best = results[rank];
      for (const std::vector<float>& row : rows) {
        const int64_t begin = kEnds[rank];
        best.push_back(BestOf(absl::MakeConstSpan(row).subspan(begin, kEnds[rank + 1] - begin)));
        best.back().id += static_cast<int32_t>(begin);
      }
      const absl::Status status = MergeBest(comm->get(), absl::MakeSpan(best));
      EXPECT_TRUE(status.ok()) << status;
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (int rank = 1; rank < kRanks; ++rank) {
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(results[rank][i].is_finite, results[0][i].is_finite) << i;
      EXPECT_EQ(results[rank][i].id, results[0][i].id) << i;
    }
  }
  return results[0];
}

TEST(BestLogitTest, IsTheLargestOfAllRanksAndTheFirstOfEquals) {
  std::mt19937 random(1);
  Rows rows(200, std::vector<float>(kColumns));
  for (auto& row : rows) {
    for (float& logit : row) logit = static_cast<float>(random() % 8) - 4;  // many are equal
  }
  const std::vector<BestLogit> best = Merge(rows);
  for (size_t i = 0; i < rows.size(); ++i) {
    int32_t expected = 0;
    for (int32_t id = 1; id < kColumns; ++id) {
      if (rows[i][id] > rows[i][expected]) expected = id;
    }
    EXPECT_EQ(best[i].id, expected) << i;
    EXPECT_EQ(best[i].is_finite, 1) << i;
  }
}

TEST(BestLogitTest, OneBadLogitAnywhereIsSeenByAll) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Rows rows;
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    for (int64_t id = 0; id < kColumns; ++id) {
      rows.emplace_back(kColumns, 1.0F)[id] = bad;
    }
  }
  for (const BestLogit& best : Merge(rows)) EXPECT_EQ(best.is_finite, 0);
}

}  // namespace
}  // namespace paceline::worker
