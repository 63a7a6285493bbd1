// One replica as the router knows it: its link, lease, epoch, load and prefix blocks. Owned by
// Fleet; the router's loop thread only.
#ifndef PACELINE_ROUTER_FLEET_REPLICA_H_
#define PACELINE_ROUTER_FLEET_REPLICA_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "proto/paceline/v1/worker.pb.h"
#include "router/fleet/fleet_snapshot.h"
#include "router/fleet/worker_link.h"

namespace paceline::router {

enum class ReplicaState {
  kConnecting,  // no valid WorkerHello yet
  kLoading,     // hello came, the tokenizer did not yet
  kReady,
  kStalled,   // has work, beats, but its step counter stands still: gets no new requests
  kDraining,  // it stops, or an operator wants it empty: gets no new requests
  kLost,      // waits for its next attempt to attach
};

// "connecting", "loading", …: for admin and metrics.
std::string ReplicaStateName(ReplicaState state);

struct Replica {
  int32_t key = 0;
  std::string address;
  ReplicaState state = ReplicaState::kLost;
  bool is_removed = false;  // its name no longer resolves to this address; goes when it is lost
  bool is_leaving = false;  // removed by an operator: goes when it has nothing to do, too
  bool is_drained = false;  // by an operator or by itself, for this epoch

  std::unique_ptr<WorkerLink> link;
  uint64_t attachment = 0;  // counts links; events of an older one are dropped
  v1::WorkerHello hello;    // of the last attachment that said hello
  uint64_t min_epoch = 0;   // the highest epoch seen: a lower one is a ghost and refused
  int64_t last_frame_ns = 0;
  int64_t last_sent_ns = 0;
  int64_t next_open_ns = 0;  // while lost
  int64_t backoff_ms = 0;
  std::string refusal;        // why it could not be attached to, as last logged
  int64_t next_fetch_ns = 0;  // while loading: when to ask for the tokenizer again

  v1::Load load;
  int64_t progress_ns = 0;  // when load.step last changed, or there was nothing to do
  Footprint sent;           // what this router runs there
  PrefixIndex prefixes;

  bool attached() const {
    return state == ReplicaState::kLoading || state == ReplicaState::kReady ||
           state == ReplicaState::kStalled || state == ReplicaState::kDraining;
  }
};

// Whether `hello` describes a replica that this router can use; says what is wrong with it if not.
absl::Status CheckHello(const v1::WorkerHello& hello);

// Applies `events` to `index`, which never grows beyond `max_blocks` entries.
// InvalidArgument, with nothing applied, when the frame is not whole hashes.
absl::Status ApplyKvEvents(const v1::KvEvents& events, size_t max_blocks, PrefixIndex& index);

// The view of `replica` that balancing sees.
ReplicaView ViewOf(const Replica& replica);

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_FLEET_REPLICA_H_
