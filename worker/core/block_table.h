// The KV blocks of one sequence: references that return themselves, and where the sequence stands
// in the prefix cache's hash chain. Owned by its Sequence, managed by KvCache. Engine thread only.
#ifndef PACELINE_WORKER_CORE_BLOCK_TABLE_H_
#define PACELINE_WORKER_CORE_BLOCK_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "proto/block_hash.h"

namespace paceline::worker {

// Whoever counts the references of blocks.
class BlockOwner {
 public:
  // Takes back one reference of each block.
  virtual void Release(absl::Span<const int32_t> blocks) = 0;

 protected:
  ~BlockOwner() = default;
};

// Block ids with one reference each. Returns them on destruction; must not outlive the owner.
class BlockList {
 public:
  BlockList() = default;
  explicit BlockList(BlockOwner* owner) : owner_(owner) {}
  BlockList(BlockList&& other) noexcept
      : owner_(other.owner_), ids_(std::exchange(other.ids_, {})) {}
  BlockList& operator=(BlockList&& other) noexcept {
    if (this != &other) {
      clear();
      owner_ = other.owner_;
      ids_ = std::exchange(other.ids_, {});
    }
    return *this;
  }
  ~BlockList() { clear(); }

  absl::Span<const int32_t> ids() const { return ids_; }
  int32_t size() const { return static_cast<int32_t>(ids_.size()); }
  bool empty() const { return ids_.empty(); }
  int32_t back() const { return ids_.back(); }
  int32_t operator[](int32_t index) const { return ids_[index]; }

  void reserve(size_t count) { ids_.reserve(count); }
  // Takes over a reference that the caller holds.
  void push_back(int32_t id) { ids_.push_back(id); }
  // Hands the last block's reference to the caller.
  int32_t pop_back() {
    const int32_t id = ids_.back();
    ids_.pop_back();
    return id;
  }
  // Returns the last block's reference and takes over that of `id` in its place.
  void ReplaceBack(int32_t id) {
    owner_->Release({&ids_.back(), 1});
    ids_.back() = id;
  }
  // Returns all references.
  void clear() {
    if (!ids_.empty()) owner_->Release(ids_);
    ids_.clear();
  }

 private:
  BlockOwner* owner_ = nullptr;
  std::vector<int32_t> ids_;
};

// A copy of one block's KV, all layers: copy-on-write of a forked sequence's partial last block.
struct BlockCopy {
  int32_t source;
  int32_t destination;
  friend bool operator==(const BlockCopy&, const BlockCopy&) = default;
};

// Block i holds the KV of tokens [i * block_size, (i + 1) * block_size).
struct BlockTable {
  BlockList blocks;

  absl::Span<const int32_t> ids() const { return blocks.ids(); }

  // The rest is KvCache's.
  BlockHash root;                 // of the chain: model, adapter, salt
  uint64_t root_id = 0;           // names (adapter, salt) exactly
  std::vector<BlockHash> hashes;  // of the first full blocks of the token list; kept on Close
  int32_t num_published = 0;      // leading blocks whose content is in the prefix cache
  // The published block that the next one follows (-1: the root) and whether it still is that one.
  int32_t parent_block = -1;
  uint64_t parent_generation = 0;
  bool shared_tail = false;  // the partial last block may have other references
  bool publishable = true;   // false after a hash collision: what follows stays private
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_CORE_BLOCK_TABLE_H_
