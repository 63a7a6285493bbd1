// What balancing sees of the fleet at one moment: plain values, never changed once made. The
// pointers and views in it stay valid until the fleet's owner thread next calls the fleet.
#ifndef PACELINE_ROUTER_FLEET_FLEET_SNAPSHOT_H_
#define PACELINE_ROUTER_FLEET_FLEET_SNAPSHOT_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "proto/block_hash.h"

namespace paceline::router {

// The KV blocks that a replica's prefix cache holds.
using PrefixIndex = absl::flat_hash_set<BlockHash>;

// What running requests cost a replica.
struct Footprint {
  int64_t uncached_tokens = 0;  // prompt tokens not yet computed
  int64_t blocks = 0;           // KV blocks of running sequences
  int64_t sequences = 0;

  Footprint& operator+=(const Footprint& other) {
    uncached_tokens += other.uncached_tokens;
    blocks += other.blocks;
    sequences += other.sequences;
    return *this;
  }
  Footprint& operator-=(const Footprint& other) {
    uncached_tokens -= other.uncached_tokens;
    blocks -= other.blocks;
    sequences -= other.sequences;
    return *this;
  }
  friend bool operator==(const Footprint&, const Footprint&) = default;
};

struct ReplicaView {
  int32_t key = 0;  // names the replica to Fleet; never reused
  std::string_view id;
  bool is_ready = false;
  std::string_view model_digest;
  std::string_view tokenizer_digest;
  std::string_view numerics;
  int32_t block_size = 1;  // tokens
  int32_t num_blocks = 0;
  int32_t max_model_len = 0;  // tokens
  int32_t max_num_seqs = 0;
  // The greater of what this router sent and what the replica last reported (other routers too).
  Footprint load;
  int64_t own_sequences = 0;              // of load: what this router sent
  int32_t routers = 1;                    // that share the replica
  const PrefixIndex* prefixes = nullptr;  // never null
};

// The replicas of one model.
struct FleetSnapshot {
  std::vector<ReplicaView> replicas;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_FLEET_FLEET_SNAPSHOT_H_
