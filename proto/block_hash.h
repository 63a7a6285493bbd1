// The prefix-block hash: router and worker compute it over the same tokens and must agree, so that
// the router can tell which KV blocks a worker holds. Stateless; any thread.
//
// A prompt is cut into full blocks of `block_size` tokens. The hash of block i covers the root and
// every token up to the end of block i (a chain), so equal hashes mean equal prefixes up to 128-bit
// collisions; the worker compares tokens on a hit, so a collision costs a miss, never a wrong
// answer.
#ifndef PACELINE_PROTO_BLOCK_HASH_H_
#define PACELINE_PROTO_BLOCK_HASH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "absl/types/span.h"

namespace paceline {

struct BlockHash {
  uint64_t high = 0;
  uint64_t low = 0;
  friend bool operator==(const BlockHash&, const BlockHash&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const BlockHash& b) {
    return H::combine(std::move(h), b.high, b.low);
  }
};

// The chain's root: separates models, adapters and tenants (`cache_salt`), which never share
// blocks.
BlockHash RootBlockHash(std::string_view model_digest,
                        std::string_view adapter,
                        std::string_view cache_salt);

// The hash of a block of `token_ids` that follows the block hashed `parent`.
BlockHash NextBlockHash(const BlockHash& parent, absl::Span<const int32_t> token_ids);

// Hashes of all full blocks of `token_ids`: token_ids.size() / block_size entries.
// REQUIRES: block_size > 0.
std::vector<BlockHash> HashFullBlocks(const BlockHash& root,
                                      absl::Span<const int32_t> token_ids,
                                      int32_t block_size);

}  // namespace paceline

#endif  // PACELINE_PROTO_BLOCK_HASH_H_
