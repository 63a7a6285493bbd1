#include "router/fleet/replica.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/fakes/fake_worker.h"

namespace paceline::router {
namespace {

std::string Bytes(const BlockHash& hash) {
  std::string bytes;
  for (const uint64_t word : {hash.high, hash.low}) {
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(word >> (8 * i) & 0xff));
  }
  return bytes;
}

TEST(ReplicaTest, AppliesKvEvents) {
  PrefixIndex index;
  const BlockHash a{.high = 0x0102030405060708, .low = 0xf1f2f3f4f5f6f7f8};
  const BlockHash b{.high = 1, .low = 2};
  v1::KvEvents events;
  events.set_stored(Bytes(a) + Bytes(b));
  ASSERT_TRUE(ApplyKvEvents(events, 10, index).ok());
  EXPECT_TRUE(index.contains(a) && index.contains(b));
  events.Clear();
  events.set_removed(Bytes(a));
  ASSERT_TRUE(ApplyKvEvents(events, 10, index).ok());
  EXPECT_FALSE(index.contains(a));
  EXPECT_TRUE(index.contains(b));
  events.Clear();
  events.set_reset(true);
  events.set_stored(Bytes(a));
  ASSERT_TRUE(ApplyKvEvents(events, 10, index).ok());
  EXPECT_EQ(index.size(), 1U);
}

TEST(ReplicaTest, KvEventsAreWholeHashesAndBounded) {
  PrefixIndex index;
  v1::KvEvents events;
  events.set_stored(std::string(17, 'x'));
  EXPECT_FALSE(ApplyKvEvents(events, 10, index).ok());
  EXPECT_TRUE(index.empty());
  std::string many;
  for (uint64_t i = 0; i < 20; ++i) many += Bytes({.high = i, .low = i});
  events.set_stored(many);
  ASSERT_TRUE(ApplyKvEvents(events, 10, index).ok());
  EXPECT_EQ(index.size(), 10U);
}

TEST(ReplicaTest, HellosThatMakeNoSenseAreRefused) {
  EXPECT_TRUE(CheckHello(FakeHello("r")).ok());
  const auto refused = [](auto set) {
    v1::WorkerHello hello = FakeHello("r");
    set(hello);
    return !CheckHello(hello).ok();
  };
  EXPECT_TRUE(refused([](auto& h) { h.set_protocol(2); }));
  EXPECT_TRUE(refused([](auto& h) { h.set_model_id(""); }));
  EXPECT_TRUE(refused([](auto& h) { h.set_model_id(std::string(257, 'm')); }));
  EXPECT_TRUE(refused([](auto& h) { h.clear_numerics(); }));
  EXPECT_TRUE(refused([](auto& h) { h.set_block_size(0); }));
  EXPECT_TRUE(refused([](auto& h) { h.set_num_blocks(-1); }));
  EXPECT_TRUE(refused([](auto& h) { h.set_lease_ms(0); }));
  EXPECT_TRUE(refused([](auto& h) { h.set_vocab_size(0); }));
}

TEST(ReplicaTest, LoadIsTheGreaterOfWhatWasSentAndWhatWasReported) {
  Replica replica;
  replica.hello = FakeHello("r");
  replica.sent = {.uncached_tokens = 100, .blocks = 4, .sequences = 2};
  replica.load.set_total_blocks(10);
  replica.load.set_free_blocks(3);
  replica.load.set_running(1);
  replica.load.set_waiting_tokens(50);
  const ReplicaView view = ViewOf(replica);
  EXPECT_EQ(view.load, (Footprint{.uncached_tokens = 100, .blocks = 7, .sequences = 2}));
}

}  // namespace
}  // namespace paceline::router
