#include "router/balance/balance.h"

#include <algorithm>
#include <vector>

#include "absl/algorithm/container.h"

namespace paceline::router {
namespace {

// Whether `replica` could run the request if it were empty.
bool CanEverRun(const RequestView& request, const ReplicaView& replica) {
  if (request.is_replay && replica.numerics != request.numerics) return false;
  const int64_t tokens = request.prompt_tokens + request.max_tokens;
  return tokens <= replica.max_model_len &&
         BlocksFor(tokens, replica.block_size) <= replica.num_blocks;
}

bool HasRoom(const RequestView& request, const ReplicaView& replica) {
  if (replica.load.sequences == 0) return true;
  const int64_t room = replica.max_num_seqs + std::max(2, replica.max_num_seqs / 8);
  if (replica.load.sequences + request.n <= room) return true;
  // Each of several routers has its share for sure: one that filled the replica first hears first
  // of each place that becomes free, and would take them all.
  return replica.routers > 1 && replica.own_sequences + request.n <= room / replica.routers;
}

int64_t MatchedTokens(const RequestView& request, const ReplicaView& replica) {
  if (replica.model_digest != request.model_digest || replica.block_size != request.block_size) {
    return 0;
  }
  int64_t blocks = 0;
  for (const BlockHash& hash : request.prefix) {
    if (!replica.prefixes->contains(hash)) break;
    ++blocks;
  }
  return blocks * replica.block_size;
}

}  // namespace

PickResult Pick(PolicyFn policy, const RequestView& request, const FleetSnapshot& fleet) {
  bool is_any_ready = false;
  bool fits_any = false;
  std::vector<Candidate> candidates;
  std::vector<Candidate> avoided;
  for (const ReplicaView& replica : fleet.replicas) {
    // One that got another tokenizer meanwhile is another model: the caller waits for its own.
    if (!replica.is_ready || replica.tokenizer_digest != request.tokenizer_digest) continue;
    // A replay has nowhere to go while only others are ready: wait for one of its own.
    const bool can_run = CanEverRun(request, replica);
    if (!can_run && request.is_replay) continue;
    is_any_ready = true;
    if (!can_run) continue;
    fits_any = true;
    if (!HasRoom(request, replica)) continue;
    auto& list = absl::c_linear_search(request.avoid, replica.key) ? avoided : candidates;
    list.push_back({.replica = &replica, .matched_tokens = MatchedTokens(request, replica)});
  }
  if (!is_any_ready) return Wait{.is_any_ready = false};
  if (!fits_any) return Fail{};
  if (candidates.empty()) candidates.swap(avoided);
  if (candidates.empty()) return Wait{.is_any_ready = true};
  const Candidate& chosen = candidates[policy(request, candidates)];
  return Picked{.replica = chosen.replica->key, .matched_tokens = chosen.matched_tokens};
}

}  // namespace paceline::router
