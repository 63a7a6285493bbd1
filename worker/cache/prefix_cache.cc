#include "worker/cache/prefix_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"

namespace paceline::worker {

namespace {
// Names without published blocks that are remembered beside those that can have some.
constexpr size_t kSpareRootIds = 1024;
}  // namespace

PrefixCache::PrefixCache(int32_t num_blocks, int32_t block_size) : block_size_(block_size) {
  PACELINE_CHECK(num_blocks > 0 && block_size > 0, "a prefix cache needs blocks");
  entries_.resize(num_blocks);
  tokens_.resize(static_cast<size_t>(num_blocks) * block_size);
}

uint64_t PrefixCache::RootId(std::string_view adapter, std::string_view cache_salt) {
  std::pair<std::string, std::string> name(adapter, cache_salt);
  if (const auto it = root_ids_.find(name); it != root_ids_.end()) return it->second;
  if (root_ids_.size() >= 2 * entries_.size() + kSpareRootIds) {
    absl::erase_if(root_ids_,
                   [&](const auto& item) { return !first_blocks_.contains(item.second); });
  }
  return root_ids_.emplace(std::move(name), next_root_id_++).first->second;
}

absl::Span<const int32_t> PrefixCache::TokensOf(int32_t block) const {
  return absl::MakeConstSpan(tokens_).subspan(static_cast<size_t>(block) * block_size_,
                                              block_size_);
}

int32_t PrefixCache::Lookup(const BlockHash& hash) const {
  const auto it = index_.find(hash);
  return it == index_.end() ? -1 : it->second;
}

int32_t PrefixCache::Find(const BlockHash& hash,
                          const Link& parent,
                          absl::Span<const int32_t> tokens) const {
  const int32_t block = Lookup(hash);
  if (block < 0 || entries_[block].parent != parent || TokensOf(block) != tokens) return -1;
  return block;
}

PrefixCache::Outcome PrefixCache::Store(int32_t block,
                                        const BlockHash& hash,
                                        const Link& parent,
                                        absl::Span<const int32_t> tokens,
                                        Link* link,
                                        int32_t* displaced) {
  Entry& entry = entries_[block];
  PACELINE_CHECK(!entry.published, "block published twice");
  PACELINE_CHECK(static_cast<int32_t>(tokens.size()) == block_size_, "only full blocks");
  *displaced = -1;
  if (const int32_t old = Lookup(hash); old >= 0) {
    if (entries_[old].parent == parent && TokensOf(old) == tokens) {
      *link = this->link(old);
      return Outcome::kDuplicate;
    }
    if (IsLive(entries_[old].parent)) return Outcome::kCollision;
    Remove(old);
    *displaced = old;
  }
  entry = {hash, parent, next_generation_++, true};
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + int64_t{block} * block_size_);
  index_.emplace(hash, block);
  if (parent.block < 0) ++first_blocks_[parent.generation];
  RecordChange(hash, /*stored=*/true);
  *link = this->link(block);
  return Outcome::kStored;
}

void PrefixCache::Remove(int32_t block) {
  Entry& entry = entries_[block];
  if (!entry.published) return;
  index_.erase(entry.hash);
  if (entry.parent.block < 0) {
    const auto it = first_blocks_.find(entry.parent.generation);
    if (--it->second == 0) first_blocks_.erase(it);
  }
  RecordChange(entry.hash, /*stored=*/false);
  entry.published = false;
}

void PrefixCache::RecordChange(const BlockHash& hash, bool stored) {
  std::vector<BlockHash>& list = stored ? events_.stored : events_.removed;
  const auto encode = [](bool is_stored, size_t index) {
    return is_stored ? static_cast<int32_t>(index) : ~static_cast<int32_t>(index);
  };
  const auto [it, inserted] = event_index_.try_emplace(hash, encode(stored, list.size()));
  if (inserted) {
    list.push_back(hash);
    return;
  }
  // The opposite change is still untaken: the two cancel out.
  std::vector<BlockHash>& opposite = stored ? events_.removed : events_.stored;
  const int32_t index = stored ? ~it->second : it->second;
  PACELINE_CHECK(index >= 0, "the same change twice");
  event_index_.erase(it);
  if (const BlockHash& last = opposite.back(); last != hash) {
    event_index_[last] = encode(!stored, index);
    opposite[index] = last;
  }
  opposite.pop_back();
}

void PrefixCache::TakeEvents(KvEvents& events) {
  events.stored.clear();
  events.removed.clear();
  std::swap(events, events_);
  event_index_.clear();
}

std::vector<BlockHash> PrefixCache::Hashes() const {
  std::vector<BlockHash> hashes;
  hashes.reserve(index_.size());
  for (const auto& [hash, block] : index_) hashes.push_back(hash);
  return hashes;
}

absl::Status PrefixCache::CheckInvariants() const {
  int32_t published = 0;
  int32_t first_blocks = 0;
  for (int32_t block = 0; block < static_cast<int32_t>(entries_.size()); ++block) {
    const Entry& entry = entries_[block];
    if (!entry.published) continue;
    ++published;
    if (entry.parent.block < 0) ++first_blocks;
    if (Lookup(entry.hash) != block) {
      return absl::InternalError(absl::StrCat("published but not indexed: ", block));
    }
  }
  for (const auto& [id, count] : first_blocks_) first_blocks -= count;
  if (published != size() || first_blocks != 0) {
    return absl::InternalError(absl::StrCat(published, " published, ", size(), " indexed"));
  }
  return absl::OkStatus();
}

}  // namespace paceline::worker
