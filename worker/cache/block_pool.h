// Fixed-size KV blocks of one device, identified by index: reference counts, the free list and the
// order in which unreferenced cached blocks are evicted. Knows no sequences, hashes or models.
// Owned by KvCache. Not thread-safe: engine thread only. Every operation is O(1) per block.
//
// A block is in exactly one state, so free + used + evictable == total:
//   free       nobody refers to it and nothing is cached in it
//   used       referenced at least once (cached or not), or held back until EndHold
//   evictable  cached and unreferenced: ready to be taken, least recently used first
#ifndef PACELINE_WORKER_CACHE_BLOCK_POOL_H_
#define PACELINE_WORKER_CACHE_BLOCK_POOL_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/core/block_table.h"

namespace paceline::worker {

class BlockPool final : public BlockOwner {
 public:
  // REQUIRES: num_blocks > 0.
  explicit BlockPool(int32_t num_blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  // Appends `count` blocks with one reference each to `list`, evicting from the oldest evictable
  // one on when the free list runs out; `evicted` hears of each such block before it is reused.
  // False, and nothing changes, when free + evictable < count.
  bool Allocate(int32_t count, BlockList& list, absl::FunctionRef<void(int32_t)> evicted);

  // Adds a reference. REQUIRES: the block is used or evictable.
  void Ref(int32_t block);
  // Takes back one reference of each, last block first: so of a chain that becomes evictable the
  // end is evicted before what it builds on.
  void Release(absl::Span<const int32_t> blocks) override;

  // Whether the block, once unreferenced, is kept for reuse by content (evictable) or freed.
  void SetCached(int32_t block, bool cached);
  bool cached(int32_t block) const { return blocks_[block].cached; }

  // Keeps `block` from being reused before EndHold even when its last reference goes.
  void Hold(int32_t block);
  void EndHold();

  int32_t ref_count(int32_t block) const { return blocks_[block].ref_count; }
  bool is_evictable(int32_t block) const {
    return blocks_[block].cached && blocks_[block].ref_count == 0 && !blocks_[block].held;
  }
  int32_t num_total() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t num_free() const { return num_free_; }
  int32_t num_evictable() const { return num_evictable_; }
  int32_t num_used() const { return num_total() - num_free_ - num_evictable_; }
  // What Allocate can give.
  int32_t num_available() const { return num_free_ + num_evictable_; }

  // Walks everything, O(total): each block in one state, lists and counters agree.
  absl::Status CheckInvariants() const;

 private:
  struct Block {
    int32_t ref_count = 0;
    bool cached = false;
    bool held = false;
    // Neighbours in the free or the evictable list, when in one.
    int32_t previous = kNone;
    int32_t next = kNone;
  };
  struct List {
    int32_t head = kNone;
    int32_t tail = kNone;
  };
  static constexpr int32_t kNone = -1;

  void PushBack(List& list, int32_t block);
  void Remove(List& list, int32_t block);
  // Puts an unreferenced block where it belongs.
  void Retire(int32_t block);
  void Withdraw(int32_t block);
  int32_t TakeOne(absl::FunctionRef<void(int32_t)> evicted);

  std::vector<Block> blocks_;
  List free_;
  List evictable_;  // least recently used first
  int32_t num_free_ = 0;
  int32_t num_evictable_ = 0;
  std::vector<int32_t> held_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_CACHE_BLOCK_POOL_H_
