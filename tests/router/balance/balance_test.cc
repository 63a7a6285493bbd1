#include "router/balance/balance.h"

#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace paceline::router {
namespace {

constexpr int32_t kBlock = 16;

class BalanceTest : public testing::Test {
 protected:
  ReplicaView& Add(int32_t key) {
    names_[key] = std::string(1, static_cast<char>('a' + key));
    ReplicaView view;
    view.key = key;
    view.id = names_[key];
    view.is_ready = true;
    view.model_digest = "m";
    view.numerics = "n";
    view.tokenizer_digest = "t";
    view.block_size = kBlock;
    view.num_blocks = 100;
    view.max_model_len = 1000;
    view.max_num_seqs = 16;
    view.prefixes = &caches_[key];
    fleet_.replicas.push_back(view);
    return fleet_.replicas.back();
  }
  // A request of `tokens` prompt tokens, all different.
  RequestView Request(int64_t tokens) {
    std::vector<int32_t> ids(tokens);
    for (int64_t i = 0; i < tokens; ++i) ids[i] = static_cast<int32_t>(i);
    hashes_ = HashFullBlocks(RootBlockHash("m", "", ""), ids, kBlock);
    RequestView view;
    view.prompt_tokens = tokens;
    view.max_tokens = 16;
    view.prefix = hashes_;
    view.model_digest = "m";
    view.block_size = kBlock;
    view.tokenizer_digest = "t";
    return view;
  }
  int32_t PickedBy(const char* policy, const RequestView& request) {
    const PickResult result = Pick(FindPolicy(policy), request, fleet_);
    return std::holds_alternative<Picked>(result) ? std::get<Picked>(result).replica : -1;
  }

  FleetSnapshot fleet_;
  std::map<int32_t, PrefixIndex> caches_;
  std::map<int32_t, std::string> names_;
  std::vector<BlockHash> hashes_;
};

TEST_F(BalanceTest, WaitsWhileNoReplicaIsReady) {
  auto result = Pick(PickByPrefix, Request(10), fleet_);
  EXPECT_FALSE(std::get<Wait>(result).is_any_ready);
  Add(0).is_ready = false;
  result = Pick(PickByPrefix, Request(10), fleet_);
  EXPECT_FALSE(std::get<Wait>(result).is_any_ready);
}

TEST_F(BalanceTest, WaitsWhileThoseReadyAreFull) {
  Add(0).load.sequences = 18;  // 16 and a queue of 2
  const auto result = Pick(PickByPrefix, Request(10), fleet_);
  EXPECT_TRUE(std::get<Wait>(result).is_any_ready);
  fleet_.replicas[0].load.sequences = 17;
  EXPECT_EQ(PickedBy("prefix", Request(10)), 0);
}

TEST_F(BalanceTest, EachOfSeveralRoutersHasItsShareOfAFullReplica) {
  ReplicaView& replica = Add(0);
  replica.load.sequences = 18;  // of two routers
  replica.routers = 2;
  replica.own_sequences = 8;
  EXPECT_EQ(PickedBy("prefix", Request(10)), 0);
  replica.own_sequences = 9;
  EXPECT_EQ(PickedBy("prefix", Request(10)), -1);
  replica.load.sequences = 17;  // what the other one does not use is anybody's
  EXPECT_EQ(PickedBy("prefix", Request(10)), 0);
}

TEST_F(BalanceTest, AnIdleReplicaHasRoomForMoreChoicesThanItRunsAtOnce) {
  Add(0).max_num_seqs = 1;
  RequestView request = Request(10);
  request.n = 8;
  EXPECT_EQ(PickedBy("prefix", request), 0);
}

TEST_F(BalanceTest, FailsWhatFitsNoReadyReplica) {
  Add(0);
  EXPECT_TRUE(std::holds_alternative<Fail>(Pick(PickByPrefix, Request(990), fleet_)));
  fleet_.replicas[0].num_blocks = 2;
  EXPECT_TRUE(std::holds_alternative<Fail>(Pick(PickByPrefix, Request(20), fleet_)));
  EXPECT_EQ(PickedBy("prefix", Request(16)), 0);
}

TEST_F(BalanceTest, TreatsAReplicaWithAnotherTokenizerAsNotReady) {
  Add(0).tokenizer_digest = "other";
  const auto result = Pick(PickByPrefix, Request(10), fleet_);
  EXPECT_FALSE(std::get<Wait>(result).is_any_ready);
}

TEST_F(BalanceTest, ReplaysOnlyOnTheSameNumerics) {
  Add(0).numerics = "other";
  RequestView request = Request(10);
  EXPECT_EQ(PickedBy("prefix", request), 0);  // what has said nothing yet may go anywhere
  request.is_replay = true;
  request.numerics = "n";
  EXPECT_FALSE(std::get<Wait>(Pick(PickByPrefix, request, fleet_)).is_any_ready);
  Add(1);
  EXPECT_EQ(PickedBy("prefix", request), 1);
}

TEST_F(BalanceTest, AvoidsReplicasThatFailedUnlessNoneElseIsLeft) {
  Add(0);
  Add(1).load.blocks = 50;
  const std::vector<int32_t> avoid = {0};
  RequestView request = Request(10);
  request.avoid = avoid;
  EXPECT_EQ(PickedBy("prefix", request), 1);
  fleet_.replicas[1].is_ready = false;
  EXPECT_EQ(PickedBy("prefix", request), 0);
}

TEST_F(BalanceTest, PrefixGoesWhereThePromptIsCached) {
  Add(0);
  Add(1);
  const RequestView request = Request(160);
  caches_[1].insert(hashes_.begin(), hashes_.begin() + 5);
  const auto result = Pick(PickByPrefix, request, fleet_);
  EXPECT_EQ(std::get<Picked>(result).replica, 1);
  EXPECT_EQ(std::get<Picked>(result).matched_tokens, 5 * kBlock);
}

TEST_F(BalanceTest, PrefixMatchesOnlyFromTheStart) {
  Add(0);
  const RequestView request = Request(160);
  caches_[0].insert(hashes_.begin() + 1, hashes_.end());
  EXPECT_EQ(std::get<Picked>(Pick(PickByPrefix, request, fleet_)).matched_tokens, 0);
}

TEST_F(BalanceTest, PrefixLeavesTheCacheWhenItsReplicaIsBusier) {
  Add(0);
  Add(1).load.uncached_tokens = 6 * kBlock;  // more than the five blocks saved
  const RequestView request = Request(160);
  caches_[1].insert(hashes_.begin(), hashes_.begin() + 5);
  EXPECT_EQ(PickedBy("prefix", request), 0);
  fleet_.replicas[1].load.uncached_tokens = 4 * kBlock;
  EXPECT_EQ(PickedBy("prefix", request), 1);
  fleet_.replicas[1].load.blocks = 2;  // decodes count as well
  EXPECT_EQ(PickedBy("prefix", request), 0);
}

TEST_F(BalanceTest, PrefixSpreadsEqualReplicas) {
  for (int32_t key = 0; key < 3; ++key) Add(key);
  std::map<int32_t, int> picks;
  RequestView request = Request(10);
  for (request.serial = 0; request.serial < 9; ++request.serial) {
    ++picks[PickedBy("prefix", request)];
  }
  EXPECT_EQ(picks, (std::map<int32_t, int>{{0, 3}, {1, 3}, {2, 3}}));
}

TEST_F(BalanceTest, LeastLoadedCountsSequencesThenTokens) {
  Add(0).load = {.uncached_tokens = 0, .blocks = 0, .sequences = 2};
  Add(1).load = {.uncached_tokens = 500, .blocks = 90, .sequences = 1};
  Add(2).load = {.uncached_tokens = 100, .blocks = 90, .sequences = 1};
  EXPECT_EQ(PickedBy("least_loaded", Request(10)), 2);
}

TEST_F(BalanceTest, PowerOfTwoNeverPicksTheWorstOfAll) {
  for (int32_t key = 0; key < 4; ++key) Add(key).load.sequences = key;
  RequestView request = Request(10);
  std::map<int32_t, int> picks;
  uint64_t state = 1;
  for (int i = 0; i < 1000; ++i) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    request.random = state ^ state >> 29;
    ++picks[PickedBy("power_of_two", request)];
  }
  EXPECT_EQ(picks.count(3), 0U);
  EXPECT_GT(picks[0], picks[1]);
  EXPECT_GT(picks[1], picks[2]);
  EXPECT_GT(picks[2], 0);
}

TEST_F(BalanceTest, RoundRobinTakesTurns) {
  for (int32_t key = 0; key < 3; ++key) Add(key);
  RequestView request = Request(10);
  std::vector<int32_t> order;
  for (request.serial = 0; request.serial < 4; ++request.serial) {
    order.push_back(PickedBy("round_robin", request));
  }
  EXPECT_EQ(order, (std::vector<int32_t>{0, 1, 2, 0}));
}

TEST_F(BalanceTest, SessionsStayAndOnlyThoseOfALostReplicaMove) {
  for (int32_t key = 0; key < 4; ++key) Add(key);
  RequestView request = Request(10);
  std::map<std::string, int32_t> home;
  std::map<int32_t, int> sizes;
  for (int i = 0; i < 200; ++i) {
    const std::string session = "session-" + std::to_string(i);
    request.session = session;
    request.serial = i;
    home[session] = PickedBy("session", request);
    ++sizes[home[session]];
  }
  EXPECT_EQ(sizes.size(), 4U);
  fleet_.replicas[2].is_ready = false;
  for (const auto& [session, replica] : home) {
    request.session = session;
    const int32_t now = PickedBy("session", request);
    if (replica == 2) {
      EXPECT_NE(now, 2);
    } else {
      EXPECT_EQ(now, replica);
    }
  }
}

TEST(PoliciesTest, AreFoundByName) {
  EXPECT_EQ(FindPolicy("prefix"), &PickByPrefix);
  EXPECT_EQ(FindPolicy("nonsense"), nullptr);
  EXPECT_EQ(PolicyNames(), "prefix, least_loaded, power_of_two, round_robin, session");
}

}  // namespace
}  // namespace paceline::router
