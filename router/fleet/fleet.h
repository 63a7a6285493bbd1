// All replicas this router is attached to: opens links and reopens them with back-off, keeps
// leases, fences epochs, fetches tokenizers, tracks load and prefix blocks, beats. Knows nothing
// about requests beyond their footprint. Owned by Dispatcher; the router's loop thread only, except
// where said.
//
// A replica's life: connecting → (hello) loading → (tokenizer) ready ↔ stalled or draining →
// (closed, or silent for its lease) lost → back-off → connecting. From ready on its frames reach
// the listener; once it is lost nothing of that attachment does, whenever it arrives.
#ifndef PACELINE_ROUTER_FLEET_FLEET_H_
#define PACELINE_ROUTER_FLEET_FLEET_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "proto/paceline/v1/admin.pb.h"
#include "proto/paceline/v1/worker.pb.h"
#include "router/core/event_loop.h"
#include "router/fleet/address_list.h"
#include "router/fleet/fleet_snapshot.h"
#include "router/fleet/replica.h"
#include "router/fleet/worker_link.h"

namespace paceline::router {

struct FleetOptions {
  WorkerAddresses workers;
  std::string router_id;
  int64_t reconnect_min_ms = 200;
  int64_t reconnect_max_ms = 5'000;
  int64_t hello_timeout_ms = 5'000;     // from opening a link to WorkerHello
  int64_t resolve_interval_ms = 3'000;  // dns:/// only
  // A replica with work whose step counter stands still for this long gets no new requests. Longer
  // than the longest step.
  int64_t stall_ms = 30'000;
};

// What the fleet tells its owner, on the loop.
class FleetListener {
 public:
  virtual ~FleetListener() = default;
  // `replica` became ready (first time in this attachment, or again after a stall).
  virtual void OnReplicaUp(const Replica& replica) = 0;
  // `replica` takes no new requests. `is_lost`: nothing that was sent to it will be answered.
  // `why` is CANCELLED when the worker ended the stream in good order.
  virtual void OnReplicaDown(const Replica& replica, bool is_lost, const absl::Status& why) = 0;
  virtual void OnAccepted(const Replica& replica, const v1::Accepted& accepted) = 0;
  virtual void OnStepResult(const Replica& replica, const v1::StepResult& step) = 0;
  // A load report arrived, alone or after the step it came with: there may be room.
  virtual void OnLoad(const Replica& replica) = 0;
};

class Fleet {
 public:
  // `resolve` blocks and runs on a thread of its own; null: ResolveAddresses.
  using ResolveFn = std::function<absl::StatusOr<std::vector<std::string>>(
      const std::string& name, const std::string& port)>;

  // `loop` and `listener` must outlive the fleet.
  Fleet(FleetOptions options,
        EventLoop* loop,
        WorkerLinkFactory make_link,
        FleetListener* listener,
        ResolveFn resolve = nullptr);
  // Closes every link. The loop must have stopped, or this is its thread.
  ~Fleet();
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  // Starts to attach.
  void Start();

  // The replicas are those at these addresses: new ones are attached to; one that is not among them
  // serves until its link ends.
  void SetAddresses(const std::vector<std::string>& addresses);

  // The attached replicas of `model`, ready or stalled.
  FleetSnapshot Snapshot(const std::string& model) const;
  // All replicas by key.
  const absl::btree_map<int32_t, Replica>& replicas() const { return replicas_; }
  // nullptr when it was removed.
  const Replica* Find(int32_t key) const;

  // From now on these are the workers. New ones are attached to; one that is no longer named gets
  // no new requests, and goes when those that it has are done.
  void SetWorkers(WorkerAddresses workers);

  // Sends to an attached replica; dropped otherwise (the owner has been told that it is lost).
  void Send(int32_t key, v1::RouterMessage message);

  // What the owner runs on a replica. Sums are by attachment: the owner takes back what it added
  // when OnReplicaDown(is_lost) comes.
  void AddFootprint(int32_t key, const Footprint& footprint);
  void SubtractFootprint(int32_t key, const Footprint& footprint);

  // The tokenizer with `digest`; null when no replica that uses it became ready yet. Kept for good:
  // a fleet has few.
  std::shared_ptr<const v1::TokenizerBundle> Tokenizer(const std::string& digest) const;

  // No new requests for the attached replica with this id or address, or (not `is_drained`) some
  // again. Holds for its epoch, also when the link breaks. NotFound; InvalidArgument when several
  // have that id.
  absl::Status Drain(const std::string& name, bool is_drained);

  // For Admin.ListReplicas.
  std::vector<v1::ReplicaInfo> Describe() const;

 private:
  void AddReplica(const std::string& address);
  void Tick();
  void TickReplica(Replica& replica, int64_t now_ns);
  void Open(Replica& replica);
  void Lose(Replica& replica, const absl::Status& why);
  void LogRefusal(Replica& replica, const absl::Status& why);
  void OnEvent(int32_t key, uint64_t attachment, LinkEvent event);
  void OnHello(Replica& replica, v1::WorkerHello hello);
  void OnLoadReport(Replica& replica, const v1::Load& load);
  void FetchTokenizer(Replica& replica);
  void OnTokenizer(int32_t key,
                   uint64_t attachment,
                   const std::string& digest,
                   absl::StatusOr<v1::TokenizerBundle> bundle);
  void MakeReady(Replica& replica);
  void MakeDraining(Replica& replica);
  void Resolve();
  void OnResolved(const std::string& name, absl::StatusOr<std::vector<std::string>> addresses);
  void AddMissing(const std::vector<std::string>& addresses);
  void Leave(Replica& replica, bool leaves);

  const FleetOptions options_;
  WorkerAddresses workers_;
  EventLoop* const loop_;
  const WorkerLinkFactory make_link_;
  FleetListener* const listener_;
  const ResolveFn resolve_;
  // Tasks on the loop that outlive the fleet see null here.
  const std::shared_ptr<Fleet*> self_;

  absl::btree_map<int32_t, Replica> replicas_;
  int32_t next_key_ = 0;
  absl::flat_hash_map<std::string, std::shared_ptr<const v1::TokenizerBundle>> tokenizers_;
  EventLoop::TimerId tick_timer_;
  int64_t next_resolve_ns_ = 0;
  int64_t last_tick_ns_ = 0;
  bool is_resolving_ = false;
  bool is_new_name_ = false;  // what it resolves to replaces the workers so far
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_FLEET_FLEET_H_
