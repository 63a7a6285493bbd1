#include "worker/cache/kv_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {

KvCache::KvCache(const Options& options)
    : block_size_(options.block_size),
      prefix_caching_(options.prefix_caching),
      model_digest_(options.model_digest),
      hash_(options.hash),
      pool_(options.num_blocks),
      prefix_(options.num_blocks, options.block_size) {}

void KvCache::Bind(BlockTable& table, std::string_view adapter, std::string_view cache_salt) {
  table.blocks = BlockList(&pool_);
  if (!prefix_caching_) return;
  table.root = RootBlockHash(model_digest_, adapter, cache_salt);
  table.root_id = prefix_.RootId(adapter, cache_salt);
}

const BlockHash& KvCache::HashOf(BlockTable& table,
                                 absl::Span<const int32_t> tokens,
                                 int32_t index) {
  // Token lists only grow, so what was hashed once stays.
  for (int32_t i = static_cast<int32_t>(table.hashes.size()); i <= index; ++i) {
    const BlockHash& parent = i == 0 ? table.root : table.hashes.back();
    table.hashes.push_back(hash_(parent, tokens.subspan(size_t{1} * i * block_size_, block_size_)));
  }
  return table.hashes[index];
}

bool KvCache::Open(BlockTable& table,
                   absl::Span<const int32_t> tokens,
                   bool use_prefix,
                   int32_t spare,
                   int32_t* num_cached) {
  PACELINE_CHECK(table.blocks.empty() && !tokens.empty(), "a table is opened once, with tokens");
  use_prefix = use_prefix && prefix_caching_;
  PrefixCache::Link parent{-1, table.root_id};
  matched_.clear();
  int32_t evictable_hits = 0;
  const int32_t most = use_prefix ? static_cast<int32_t>(tokens.size() - 1) / block_size_ : 0;
  for (int32_t i = 0; i < most; ++i) {
    const int32_t block = prefix_.Find(
        HashOf(table, tokens, i), parent, tokens.subspan(size_t{1} * i * block_size_, block_size_));
    if (block < 0) break;
    parent = prefix_.link(block);
    evictable_hits += pool_.is_evictable(block) ? 1 : 0;
    matched_.push_back(block);
  }
  const int32_t num_matched = static_cast<int32_t>(matched_.size());
  const int32_t num_new = BlocksFor(static_cast<int64_t>(tokens.size())) - num_matched;
  if (pool_.num_available() - evictable_hits - num_new < spare) return false;

  table.blocks.reserve(num_matched + num_new + 1);
  for (const int32_t block : matched_) {
    pool_.Ref(block);
    table.blocks.push_back(block);
  }
  PACELINE_CHECK(Allocate(num_new, table.blocks), "blocks were counted");
  table.num_published = num_matched;
  table.parent_block = parent.block;
  table.parent_generation = parent.generation;
  table.shared_tail = false;
  table.publishable = true;
  *num_cached = num_matched * block_size_;
  if (use_prefix) {
    counters_.queried_tokens += tokens.size();
    counters_.hit_tokens += *num_cached;
  }
  return true;
}

bool KvCache::Append(BlockTable& table, int32_t position) {
  const int32_t index = position / block_size_;
  if (index == table.blocks.size()) return Allocate(1, table.blocks);
  PACELINE_CHECK(index + 1 == table.blocks.size(), "slot is not at the table's end");
  if (!table.shared_tail) return true;
  const int32_t source = table.blocks.back();
  if (pool_.ref_count(source) > 1) {
    if (!Allocate(1, table.blocks)) return false;
    const int32_t copy = table.blocks.pop_back();
    // The source must keep its content until the copy is made, whoever else lets go of it.
    pool_.Hold(source);
    table.blocks.ReplaceBack(copy);
    copies_.push_back({source, copy});
  }
  table.shared_tail = false;
  return true;
}

void KvCache::Fork(BlockTable& from, BlockTable& to, int32_t num_tokens) {
  PACELINE_CHECK(to.blocks.empty(), "the fork's table holds blocks");
  PACELINE_CHECK(from.blocks.size() == BlocksFor(num_tokens), "a fork shares computed blocks only");
  to.blocks.reserve(from.blocks.size() + 1);
  for (const int32_t block : from.ids()) {
    pool_.Ref(block);
    to.blocks.push_back(block);
  }
  to.hashes = from.hashes;
  to.num_published = from.num_published;
  to.parent_block = from.parent_block;
  to.parent_generation = from.parent_generation;
  to.publishable = from.publishable;
  from.shared_tail = to.shared_tail = num_tokens % block_size_ != 0;
}

void KvCache::PublishFull(BlockTable& table, absl::Span<const int32_t> tokens) {
  if (!prefix_caching_ || !table.publishable) return;
  PrefixCache::Link parent{table.parent_block, table.parent_generation};
  if (!prefix_.IsLive(parent)) {
    // What our next block follows was another sequence's copy and is gone: offer our own again.
    table.num_published = 0;
    parent = {-1, table.root_id};
  }
  const int32_t num_full = static_cast<int32_t>(tokens.size()) / block_size_;
  while (table.num_published < num_full) {
    const int32_t i = table.num_published;
    const int32_t block = table.blocks[i];
    if (prefix_.contains(block)) {
      if (prefix_.parent(block) == parent) {
        parent = prefix_.link(block);
        ++table.num_published;
        continue;
      }
      Unpublish(block);
    }
    int32_t displaced = -1;
    PrefixCache::Link link;
    const auto outcome = prefix_.Store(block,
                                       HashOf(table, tokens, i),
                                       parent,
                                       tokens.subspan(size_t{1} * i * block_size_, block_size_),
                                       &link,
                                       &displaced);
    if (displaced >= 0) pool_.SetCached(displaced, false);
    if (outcome == PrefixCache::Outcome::kCollision) {
      table.publishable = false;
      break;
    }
    if (outcome == PrefixCache::Outcome::kStored) pool_.SetCached(block, true);
    parent = link;
    ++table.num_published;
  }
  table.parent_block = parent.block;
  table.parent_generation = parent.generation;
}

void KvCache::Close(BlockTable& table) {
  table.blocks.clear();
  table.shared_tail = false;
}

void KvCache::Discard(BlockTable& table) {
  for (const int32_t block : table.ids()) {
    Unpublish(block);
    if (pool_.ref_count(block) == 1) zero_.push_back(block);
  }
  Close(table);
}

void KvCache::EndStep() {
  zero_.clear();
  copies_.clear();
  pool_.EndHold();
}

void KvCache::Flush() {
  for (int32_t block = 0; block < pool_.num_total(); ++block) Unpublish(block);
}

bool KvCache::Allocate(int32_t count, BlockList& list) {
  return pool_.Allocate(count, list, [this](int32_t block) {
    prefix_.Remove(block);
    ++counters_.evictions;
  });
}

void KvCache::Unpublish(int32_t block) {
  prefix_.Remove(block);
  pool_.SetCached(block, false);
}

KvCache::Stats KvCache::stats() const {
  Stats stats = counters_;
  stats.total = pool_.num_total();
  stats.free = pool_.num_free();
  stats.used = pool_.num_used();
  stats.evictable = pool_.num_evictable();
  stats.published = prefix_.size();
  return stats;
}

absl::Status KvCache::CheckInvariants() const {
  RETURN_IF_ERROR(pool_.CheckInvariants());
  RETURN_IF_ERROR(prefix_.CheckInvariants());
  for (int32_t block = 0; block < pool_.num_total(); ++block) {
    if (pool_.cached(block) != prefix_.contains(block)) {
      return absl::InternalError(absl::StrCat("cached and published disagree: ", block));
    }
  }
  const Stats s = stats();
  if (s.free + s.used + s.evictable != s.total) {
    return absl::InternalError(absl::StrCat(
        s.free, " free + ", s.used, " used + ", s.evictable, " evictable != ", s.total));
  }
  return absl::OkStatus();
}

absl::Status KvCache::CheckReferences(absl::Span<const BlockTable* const> tables) const {
  std::vector<int32_t> references(pool_.num_total(), 0);
  for (const BlockTable* table : tables) {
    for (const int32_t block : table->ids()) ++references[block];
  }
  for (int32_t block = 0; block < pool_.num_total(); ++block) {
    if (references[block] != pool_.ref_count(block)) {
      return absl::InternalError(absl::StrCat("block ",
                                              block,
                                              ": ",
                                              references[block],
                                              " references, ",
                                              pool_.ref_count(block),
                                              " counted"));
    }
  }
  return absl::OkStatus();
}

}  // namespace paceline::worker
