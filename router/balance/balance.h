// Which replica runs a request: a pure function of the request and of what is known about the
// fleet. Stateless; any thread (the snapshot's own rules apply).
#ifndef PACELINE_ROUTER_BALANCE_BALANCE_H_
#define PACELINE_ROUTER_BALANCE_BALANCE_H_

#include <cstdint>
#include <string_view>
#include <variant>

#include "absl/types/span.h"
#include "proto/block_hash.h"
#include "router/balance/policies.h"
#include "router/fleet/fleet_snapshot.h"

namespace paceline::router {

// What balancing knows about a request.
struct RequestView {
  int64_t prompt_tokens = 0;  // and, for a replay, the tokens already emitted
  int64_t max_tokens = 0;     // that may still be generated, per choice
  int32_t n = 1;              // choices
  // Hashes of the prompt's full blocks. They count only on replicas with the same digest and block
  // size. Empty: no prefix can match.
  absl::Span<const BlockHash> prefix;
  std::string_view model_digest;
  int32_t block_size = 0;
  // The tokenizer that the prompt was encoded with; other replicas cannot run it.
  std::string_view tokenizer_digest;
  // Tokens were emitted already: only replicas of these numerics go on with the same bits.
  bool is_replay = false;
  std::string_view numerics;  // replays only
  absl::Span<const int32_t>
      avoid;                 // keys of replicas that failed it; used only if none else is left
  std::string_view session;  // requests of one session belong together; may be empty
  uint64_t random = 0;       // fresh per pick
  uint64_t serial = 0;       // counts picks
};

struct Picked {
  int32_t replica = 0;  // ReplicaView::key
  int64_t matched_tokens = 0;
};
// Not now, perhaps later.
struct Wait {
  bool is_any_ready = false;  // false: no replica is ready; true: those that are have no room
};
// Never: it does not fit any replica that is ready.
struct Fail {};

using PickResult = std::variant<Picked, Wait, Fail>;

// A replica has room for a request while its sequences stay within max_num_seqs plus a short queue
// (an eighth, at least 2: work for the next step), while those of this router stay within an equal
// share of that, and when it is idle.
PickResult Pick(PolicyFn policy, const RequestView& request, const FleetSnapshot& fleet);

// KV blocks that `tokens` take.
inline int64_t BlocksFor(int64_t tokens, int32_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_BALANCE_BALANCE_H_
