// The paged KV cache as the scheduler sees it: block tables that grow, fork and end, on top of the
// block pool and the prefix cache. Accounts for blocks; touches no device memory: what has to
// happen there (zeroing, copying) is listed for the runner. Takes token spans, never a sequence.
// Owned by Engine. Not thread-safe: engine thread only.
#ifndef PACELINE_WORKER_CACHE_KV_CACHE_H_
#define PACELINE_WORKER_CACHE_KV_CACHE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/block_hash.h"
#include "worker/cache/block_pool.h"
#include "worker/cache/prefix_cache.h"
#include "worker/core/block_table.h"

namespace paceline::worker {

class KvCache {
 public:
  using HashFunction = BlockHash (*)(const BlockHash& parent, absl::Span<const int32_t> tokens);

  struct Options {
    int32_t num_blocks = 0;
    int32_t block_size = 32;  // tokens
    bool prefix_caching = true;
    std::string model_digest;            // root of all block hashes
    HashFunction hash = &NextBlockHash;  // tests give one that collides
  };

  struct Stats {
    int32_t total = 0;
    int32_t free = 0;
    int32_t used = 0;
    int32_t evictable = 0;        // cached, unreferenced
    int32_t published = 0;        // blocks in the prefix cache, referenced or not
    uint64_t queried_tokens = 0;  // looked up in the prefix cache
    uint64_t hit_tokens = 0;      // of those, found
    uint64_t evictions = 0;
  };

  explicit KvCache(const Options& options);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  // ---- A sequence's blocks. `table` belongs to this cache from Bind on.

  // Once per table: whose blocks it may share.
  void Bind(BlockTable& table, std::string_view adapter, std::string_view cache_salt);

  // Takes blocks for all of `tokens`: those of the longest cached prefix of whole blocks, except
  // that the last token is never taken from the cache, then new ones. Sets *num_cached to the
  // tokens that need not be computed. False, and nothing changes, when after that fewer than
  // `spare` blocks would be available. REQUIRES: table.blocks is empty, table.root is set, tokens
  // is not empty.
  bool Open(BlockTable& table,
            absl::Span<const int32_t> tokens,
            bool use_prefix,
            int32_t spare,
            int32_t* num_cached);

  // Whether the slot of `position` can be written without another block. Cheap.
  bool HasSlot(const BlockTable& table, int32_t position) const {
    return !table.shared_tail && position < table.blocks.size() * block_size_;
  }
  // Makes the slot of `position` writable: a new block at a block boundary, a private copy of a
  // shared last block (listed in copies()). False, and nothing changes, when no block is available.
  // REQUIRES: position is in the last block or the first one past it.
  bool Append(BlockTable& table, int32_t position);

  // `to` becomes a second sequence with the same blocks; a partial last block is copied when one of
  // them first writes to it. REQUIRES: to.blocks is empty, `num_tokens` tokens are computed.
  void Fork(BlockTable& from, BlockTable& to, int32_t num_tokens);

  // Offers the full blocks of `tokens`, whose KV is computed and known to be sound, for reuse.
  // Cheap when no block has become full since the last call.
  void Publish(BlockTable& table, absl::Span<const int32_t> tokens) {
    if (static_cast<int32_t>(tokens.size()) >= (table.num_published + 1) * block_size_) {
      PublishFull(table, tokens);
    }
  }

  // Returns all blocks; published ones stay in the prefix cache until evicted.
  void Close(BlockTable& table);

  // The same for a sequence whose numbers went bad: none of its blocks stays in the prefix cache,
  // and each is zeroed before it is used again (zero_blocks()).
  void Discard(BlockTable& table);

  // ---- What the runner does before the step, in this order: zero all, then copy all. No block is
  // both source and destination, or destination twice, so either may run in parallel.
  absl::Span<const int32_t> zero_blocks() const { return zero_; }
  absl::Span<const BlockCopy> copies() const { return copies_; }
  // The step that did it is over: forgets both lists.
  void EndStep();

  // ---- Prefix cache.
  void TakeEvents(KvEvents& events) { prefix_.TakeEvents(events); }
  std::vector<BlockHash> Hashes() const { return prefix_.Hashes(); }
  // Empties the prefix cache; running sequences keep their blocks.
  void Flush();

  int32_t block_size() const { return block_size_; }
  int32_t num_blocks() const { return pool_.num_total(); }
  // Free or evictable.
  int32_t num_available() const { return pool_.num_available(); }
  int32_t BlocksFor(int64_t num_tokens) const {
    return static_cast<int32_t>((num_tokens + block_size_ - 1) / block_size_);
  }
  Stats stats() const;

  // Walks everything. `tables` are all that hold blocks: each block is referenced by them as often
  // as it is counted.
  absl::Status CheckReferences(absl::Span<const BlockTable* const> tables) const;
  // Walks everything: free + used + evictable == total, evictable blocks are exactly the
  // unreferenced published ones, index and entries agree.
  absl::Status CheckInvariants() const;

 private:
  const BlockHash& HashOf(BlockTable& table, absl::Span<const int32_t> tokens, int32_t index);
  void PublishFull(BlockTable& table, absl::Span<const int32_t> tokens);
  bool Allocate(int32_t count, BlockList& list);
  void Unpublish(int32_t block);

  const int32_t block_size_;
  const bool prefix_caching_;
  const std::string model_digest_;
  const HashFunction hash_;
  BlockPool pool_;
  PrefixCache prefix_;
  std::vector<int32_t> zero_;
  std::vector<BlockCopy> copies_;
  std::vector<int32_t> matched_;  // scratch of Open
  Stats counters_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_CACHE_KV_CACHE_H_
