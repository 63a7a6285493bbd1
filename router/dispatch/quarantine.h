// Fingerprints of requests that were running when two replicas died, remembered for a while so that
// a client's own retries do not take down a third. Owned by Dispatcher; its loop thread only.
#ifndef PACELINE_ROUTER_DISPATCH_QUARANTINE_H_
#define PACELINE_ROUTER_DISPATCH_QUARANTINE_H_

#include <cstdint>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "proto/block_hash.h"

namespace paceline::router {

class Quarantine {
 public:
  static constexpr size_t kMaxEntries = 1024;

  explicit Quarantine(int64_t keep_ms) : keep_ms_(keep_ms) {}

  // Of a tenant's prompt and its sampling parameters (serialised).
  static BlockHash Fingerprint(std::string_view model,
                               std::string_view tenant,
                               std::string_view sampling,
                               absl::Span<const int32_t> prompt_ids) {
    return NextBlockHash(RootBlockHash(model, tenant, sampling), prompt_ids);
  }

  void Add(const BlockHash& fingerprint, int64_t now_ns) {
    if (until_ns_.size() >= kMaxEntries) {
      absl::erase_if(until_ns_, [&](const auto& entry) { return entry.second <= now_ns; });
    }
    if (until_ns_.size() < kMaxEntries) until_ns_[fingerprint] = now_ns + keep_ms_ * 1'000'000;
  }
  bool empty() const { return until_ns_.empty(); }
  bool Contains(const BlockHash& fingerprint, int64_t now_ns) {
    const auto found = until_ns_.find(fingerprint);
    if (found == until_ns_.end()) return false;
    if (found->second > now_ns) return true;
    until_ns_.erase(found);
    return false;
  }

 private:
  const int64_t keep_ms_;
  absl::flat_hash_map<BlockHash, int64_t> until_ns_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_QUARANTINE_H_
