#include "worker/runner/step_plan.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace paceline::worker {
namespace {

struct Living {
  uint64_t key;
  std::vector<int32_t> table;
  int32_t length;
};

// A plan in which each sequence computes a few tokens more.
StepPlan PlanOf(std::vector<Living>& living, int32_t num_batches, std::mt19937& random) {
  StepPlan plan;
  const size_t per_batch = (living.size() + num_batches - 1) / num_batches;
  for (size_t i = 0; i < living.size(); ++i) {
    if (i % per_batch == 0) {
      plan.micro_batches.push_back({.first_row = static_cast<int32_t>(plan.token_ids.size()),
                                    .first_sequence = static_cast<int32_t>(plan.sequences.size()),
                                    .first_logit = static_cast<int32_t>(plan.logit_rows.size())});
    }
    MicroBatch& batch = plan.micro_batches.back();
    Living& one = living[i];
    const int32_t count = 1 + static_cast<int32_t>(random() % 40);
    while (static_cast<int32_t>(one.table.size()) * kernels::kKvBlockSize < one.length + count) {
      one.table.push_back(static_cast<int32_t>(random() % 1000));
    }
    plan.sequences.push_back({.first_row = batch.num_rows,
                              .num_rows = count,
                              .context_before = one.length,
                              .block_table = one.table});
    plan.keys.push_back(one.key);
    for (int32_t t = 0; t < count; ++t) {
      plan.AddRow(static_cast<int32_t>(random() % 50'000), one.length + t, one.table);
    }
    one.length += count;
    batch.num_rows += count;
    ++batch.num_sequences;
    ++batch.num_logits;
    batch.num_best = batch.num_logits / 2;
    plan.logit_rows.push_back(batch.num_rows - 1);
  }
  return plan;
}

void ExpectSame(const StepPlan& a, const StepPlan& b) {
  EXPECT_EQ(a.token_ids, b.token_ids);
  EXPECT_EQ(a.positions, b.positions);
  EXPECT_EQ(a.slots, b.slots);
  EXPECT_EQ(a.logit_rows, b.logit_rows);
  EXPECT_EQ(a.zero_blocks, b.zero_blocks);
  ASSERT_EQ(a.copies.size(), b.copies.size());
  for (size_t i = 0; i < a.copies.size(); ++i) {
    EXPECT_EQ(a.copies[i].from, b.copies[i].from);
    EXPECT_EQ(a.copies[i].to, b.copies[i].to);
  }
  ASSERT_EQ(a.micro_batches.size(), b.micro_batches.size());
  for (size_t i = 0; i < a.micro_batches.size(); ++i) {
    const MicroBatch& x = a.micro_batches[i];
    const MicroBatch& y = b.micro_batches[i];
    EXPECT_EQ(x.first_row, y.first_row);
    EXPECT_EQ(x.num_rows, y.num_rows);
    EXPECT_EQ(x.first_sequence, y.first_sequence);
    EXPECT_EQ(x.num_sequences, y.num_sequences);
    EXPECT_EQ(x.first_logit, y.first_logit);
    EXPECT_EQ(x.num_logits, y.num_logits);
    EXPECT_EQ(x.num_best, y.num_best);
  }
  ASSERT_EQ(a.sequences.size(), b.sequences.size());
  for (size_t i = 0; i < a.sequences.size(); ++i) {
    EXPECT_EQ(a.sequences[i].first_row, b.sequences[i].first_row);
    EXPECT_EQ(a.sequences[i].num_rows, b.sequences[i].num_rows);
    EXPECT_EQ(a.sequences[i].context_before, b.sequences[i].context_before);
    EXPECT_EQ(a.sequences[i].block_table, b.sequences[i].block_table);
  }
}

TEST(StepPlanTest, ComesOutAsItWentInWhateverHappensToTheSequences) {
  std::mt19937 random(1);
  std::vector<Living> living;
  uint64_t next_key = 1;
  PlanEncoder encoder;
  PlanDecoder decoder;
  std::vector<int32_t> message;
  StepPlan got;
  for (int32_t step = 0; step < 3000; ++step) {
    // Enough come and go for the encoder to forget them all, more than once.
    for (int32_t i = 0; i < 16; ++i) {
      if (living.size() < 24) living.push_back({next_key++, {}, 0});
      if (living.size() > 3) living.erase(living.begin() + random() % living.size());
    }
    // Copy-on-write, preemption, and another one of the same name.
    Living& any = living[random() % living.size()];
    if (random() % 7 == 0 && !any.table.empty()) any.table.back() = 7777;
    if (random() % 11 == 0) any = {any.key, {}, 0};
    for (Living& one : living) {
      if (one.length > 2000) one = {one.key, {}, 0};
    }
    StepPlan plan = PlanOf(living, 1 + step % 3, random);
    if (step % 5 == 0) plan.zero_blocks = {step, 3};
    if (step % 4 == 0) plan.copies = {{.from = step, .to = 9}};
    encoder.Encode(plan, message);
    const absl::Status status = decoder.Decode(message, got);
    ASSERT_TRUE(status.ok()) << status << " at step " << step;
    ExpectSame(plan, got);
    if (HasFailure()) return;
  }
}

TEST(StepPlanTest, AStepsMessageDoesNotGrowWithTheContext) {
  std::mt19937 random(1);
  PlanEncoder encoder;
  std::vector<int32_t> message;
  const auto decode = [&](std::vector<Living>& one) {
    StepPlan plan;
    plan.micro_batches.push_back({.num_rows = 1, .num_sequences = 1});
    plan.sequences.push_back({.first_row = 0,
                              .num_rows = 1,
                              .context_before = one[0].length,
                              .block_table = one[0].table});
    plan.keys.push_back(one[0].key);
    plan.AddRow(5, one[0].length, one[0].table);
    encoder.Encode(plan, message);
    return message.size();
  };
  std::vector<Living> one = {{1, std::vector<int32_t>(1000, 3), 31'000}};
  decode(one);
  const size_t before = decode(one);
  one[0].length = 31'999;
  EXPECT_EQ(decode(one), before);
  EXPECT_LT(before, 20U);
}

TEST(StepPlanTest, WhatIsNoMessageIsRefused) {
  std::mt19937 random(1);
  std::vector<Living> living = {{1, {}, 0}, {2, {}, 0}};
  PlanEncoder encoder;
  std::vector<int32_t> message;
  encoder.Encode(PlanOf(living, 1, random), message);
  StepPlan got;
  for (size_t size = 0; size < message.size(); ++size) {
    PlanDecoder decoder;
    EXPECT_FALSE(decoder.Decode(absl::MakeConstSpan(message).subspan(0, size), got).ok()) << size;
  }
  for (size_t i = 1; i < message.size(); ++i) {
    for (const int32_t wrong : {-1, 1'000'000'000}) {
      std::vector<int32_t> bad = message;
      bad[i] = wrong;
      PlanDecoder decoder;
      decoder.Decode(bad, got).IgnoreError();  // must not crash
    }
  }
}

}  // namespace
}  // namespace paceline::worker
