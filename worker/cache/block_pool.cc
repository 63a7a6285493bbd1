#include "worker/cache/block_pool.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"

namespace paceline::worker {

BlockPool::BlockPool(int32_t num_blocks) {
  PACELINE_CHECK(num_blocks > 0, "a block pool needs blocks");
  blocks_.resize(num_blocks);
  // The free list is a stack; the lowest ids are on top.
  for (int32_t block = num_blocks - 1; block >= 0; --block) Retire(block);
}

bool BlockPool::Allocate(int32_t count, BlockList& list, absl::FunctionRef<void(int32_t)> evicted) {
  if (count > num_available()) return false;
  for (int32_t i = 0; i < count; ++i) list.push_back(TakeOne(evicted));
  return true;
}

int32_t BlockPool::TakeOne(absl::FunctionRef<void(int32_t)> evicted) {
  int32_t block = free_.tail;
  if (block == kNone) {
    block = evictable_.head;
    PACELINE_CHECK(block != kNone, "no block to take");
    Withdraw(block);
    blocks_[block].cached = false;
    evicted(block);
  } else {
    Withdraw(block);
  }
  blocks_[block].ref_count = 1;
  return block;
}

void BlockPool::Ref(int32_t block) {
  Block& b = blocks_[block];
  if (b.ref_count == 0) {
    PACELINE_CHECK(b.cached, "reference to a free block");
    if (!b.held) Withdraw(block);
  }
  ++b.ref_count;
}

void BlockPool::Release(absl::Span<const int32_t> blocks) {
  for (auto it = blocks.rbegin(); it != blocks.rend(); ++it) {
    Block& b = blocks_[*it];
    PACELINE_CHECK(b.ref_count > 0, "block released twice");
    if (--b.ref_count == 0 && !b.held) Retire(*it);
  }
}

void BlockPool::SetCached(int32_t block, bool cached) {
  Block& b = blocks_[block];
  if (b.cached == cached) return;
  const bool listed = b.ref_count == 0 && !b.held;
  PACELINE_CHECK(b.ref_count > 0 || !cached, "a free block cannot be cached");
  if (listed) Withdraw(block);
  b.cached = cached;
  if (listed) Retire(block);
}

void BlockPool::Hold(int32_t block) {
  Block& b = blocks_[block];
  PACELINE_CHECK(b.ref_count > 0, "only a used block can be held");
  if (b.held) return;
  b.held = true;
  held_.push_back(block);
}

void BlockPool::EndHold() {
  for (const int32_t block : held_) {
    blocks_[block].held = false;
    if (blocks_[block].ref_count == 0) Retire(block);
  }
  held_.clear();
}

void BlockPool::Retire(int32_t block) {
  if (blocks_[block].cached) {
    PushBack(evictable_, block);
    ++num_evictable_;
  } else {
    PushBack(free_, block);
    ++num_free_;
  }
}

void BlockPool::Withdraw(int32_t block) {
  if (blocks_[block].cached) {
    Remove(evictable_, block);
    --num_evictable_;
  } else {
    Remove(free_, block);
    --num_free_;
  }
}

void BlockPool::PushBack(List& list, int32_t block) {
  Block& b = blocks_[block];
  b.previous = list.tail;
  b.next = kNone;
  (list.tail == kNone ? list.head : blocks_[list.tail].next) = block;
  list.tail = block;
}

void BlockPool::Remove(List& list, int32_t block) {
  Block& b = blocks_[block];
  (b.previous == kNone ? list.head : blocks_[b.previous].next) = b.next;
  (b.next == kNone ? list.tail : blocks_[b.next].previous) = b.previous;
  b.previous = b.next = kNone;
}

absl::Status BlockPool::CheckInvariants() const {
  std::vector<int32_t> seen(blocks_.size(), 0);
  const auto walk = [&](const List& list, bool cached, int32_t expected) -> absl::Status {
    int32_t count = 0;
    int32_t previous = kNone;
    for (int32_t block = list.head; block != kNone; block = blocks_[block].next) {
      const Block& b = blocks_[block];
      if (++seen[block] > 1) return absl::InternalError(absl::StrCat("listed twice: ", block));
      if (b.ref_count != 0 || b.held || b.cached != cached || b.previous != previous) {
        return absl::InternalError(absl::StrCat("in the wrong list: ", block));
      }
      previous = block;
      ++count;
    }
    if (count != expected || list.tail != previous) {
      return absl::InternalError(absl::StrCat("list has ", count, ", counter says ", expected));
    }
    return absl::OkStatus();
  };
  if (absl::Status status = walk(free_, false, num_free_); !status.ok()) return status;
  if (absl::Status status = walk(evictable_, true, num_evictable_); !status.ok()) return status;
  for (int32_t block = 0; block < num_total(); ++block) {
    const Block& b = blocks_[block];
    if (b.ref_count < 0) return absl::InternalError(absl::StrCat("negative count: ", block));
    if ((b.ref_count > 0 || b.held) == (seen[block] > 0)) {
      return absl::InternalError(absl::StrCat("neither used nor listed, or both: ", block));
    }
  }
  return absl::OkStatus();
}

}  // namespace paceline::worker
