// Finds KV blocks by content: an index from the hash chain over full blocks (proto/block_hash.h) to
// the block that holds them. Owned by KvCache. Not thread-safe: engine thread only.
//
// A hash only nominates a block. A block is used when its stored tokens equal the prompt's and it
// was published as the successor of the very block matched before it, so a collision costs a miss,
// never a wrong answer.
#ifndef PACELINE_WORKER_CACHE_PREFIX_CACHE_H_
#define PACELINE_WORKER_CACHE_PREFIX_CACHE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/block_hash.h"

namespace paceline::worker {

// Net changes of the index since they were last taken: no hash is in both, none twice.
struct KvEvents {
  std::vector<BlockHash> stored;
  std::vector<BlockHash> removed;
  bool empty() const { return stored.empty() && removed.empty(); }
};

class PrefixCache {
 public:
  // A published block as others refer to it; the generation tells whether it is still the same.
  struct Link {
    int32_t block = -1;       // -1: the root
    uint64_t generation = 0;  // of the root: RootId
    friend bool operator==(const Link&, const Link&) = default;
  };

  PrefixCache(int32_t num_blocks, int32_t block_size);
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // Names (adapter, salt) by content, so that tenants stay apart whatever their hashes do. An id is
  // never used for another name; a name without published blocks may get a new id.
  uint64_t RootId(std::string_view adapter, std::string_view cache_salt);

  // The block that holds `tokens` after `parent`, or -1.
  int32_t Find(const BlockHash& hash, const Link& parent, absl::Span<const int32_t> tokens) const;

  enum class Outcome {
    kStored,     // `block` is now the one found under `hash`
    kDuplicate,  // another block with the same content is; `block` stays private
    kCollision,  // the hash means other content; nothing that follows can be published either
  };
  // Publishes `block`, which holds the KV of `tokens` after `parent`. An entry that follows a block
  // that is gone gives way: it is reported in `displaced` (else -1) and is no longer published.
  // `link` becomes what a successor's `parent` is. REQUIRES: block is not published.
  Outcome Store(int32_t block,
                const BlockHash& hash,
                const Link& parent,
                absl::Span<const int32_t> tokens,
                Link* link,
                int32_t* displaced);

  // Forgets the block; no-op when it is not published.
  void Remove(int32_t block);

  bool contains(int32_t block) const { return entries_[block].published; }
  const Link& parent(int32_t block) const { return entries_[block].parent; }
  bool IsLive(const Link& link) const {
    return link.block < 0 ||
           (entries_[link.block].published && entries_[link.block].generation == link.generation);
  }
  Link link(int32_t block) const { return {block, entries_[block].generation}; }
  // -1 when nothing is stored under `hash`.
  int32_t Lookup(const BlockHash& hash) const;
  int32_t size() const { return static_cast<int32_t>(index_.size()); }

  // Swaps the changes since the last call into `events`, whose old content is dropped.
  void TakeEvents(KvEvents& events);
  // All hashes stored, in no particular order: what a new listener starts from.
  std::vector<BlockHash> Hashes() const;

  absl::Status CheckInvariants() const;

 private:
  struct Entry {
    BlockHash hash;
    Link parent;
    uint64_t generation = 0;
    bool published = false;
  };

  absl::Span<const int32_t> TokensOf(int32_t block) const;
  void RecordChange(const BlockHash& hash, bool stored);

  const int32_t block_size_;
  std::vector<Entry> entries_;   // by block
  std::vector<int32_t> tokens_;  // [num_blocks, block_size]
  absl::flat_hash_map<BlockHash, int32_t> index_;
  uint64_t next_generation_ = 1;
  absl::flat_hash_map<std::pair<std::string, std::string>, uint64_t> root_ids_;
  absl::flat_hash_map<uint64_t, int32_t> first_blocks_;  // published ones, by the root's id; > 0
  uint64_t next_root_id_ = 1;
  KvEvents events_;
  // Where a hash stands in events_: its index in stored, or the complement of that in removed.
  absl::flat_hash_map<BlockHash, int32_t> event_index_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_CACHE_PREFIX_CACHE_H_
