// The router's core: takes calls from the front ends, has them tokenised, queues them fairly,
// places them on replicas, turns the replicas' results into chunks, and owns deadlines,
// cancellation, slow readers, retries and failover. Every call gets exactly one terminal event.
//
// Threads: one loop thread owns everything but the atomics and the two published snapshots; sinks
// are called on it. Text work runs on `text`. Service, BeginDrain, Drained and Replicas: any
// thread. Owned by RouterCore (or a test), which stops the loop and the text threads before
// destroying it.
//
// A call: preparing (text thread) → queued → running; while running, parts of it may be pending
// again because their replica failed. Cancel, deadline and errors end it from any of these.
#ifndef PACELINE_ROUTER_DISPATCH_DISPATCHER_H_
#define PACELINE_ROUTER_DISPATCH_DISPATCHER_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "router/admission/fair_queue.h"
#include "router/admission/rates.h"
#include "router/balance/balance.h"
#include "router/core/call.h"
#include "router/core/event_loop.h"
#include "router/core/thread_pool.h"
#include "router/dispatch/call_state.h"
#include "router/dispatch/catalog.h"
#include "router/dispatch/quarantine.h"
#include "router/fleet/fleet.h"
#include "router/metrics/router_metrics.h"

namespace paceline::router {

struct DispatchOptions {
  FleetOptions fleet;
  QueueOptions queue;
  ParameterLimits limits;
  RetryBudgetOptions retry_budget;
  std::string policy = "prefix";
  int64_t max_preparing_bytes = 64 << 20;  // of requests whose text work is not done
  int32_t max_attempts = 3;                // per choice
  int32_t max_deaths = 2;                  // replicas lost while they ran a call: then it is poison
  int64_t no_replica_wait_ms = 2'000;      // how long a queued call waits for a ready replica
  int64_t failover_wait_ms = 15'000;       // the same for a call that runs already
  int64_t pause_bytes = 256 << 10;         // unsent bytes at which a stream is paused
  int64_t resume_bytes = 128 << 10;
  int64_t slow_reader_ms = 5'000;  // paused for longer: cancelled
  int64_t quarantine_ms = 600'000;
  SpanSink* spans = nullptr;  // where traces go; null: nowhere. Outlives the dispatcher
};

class Dispatcher final : public Service, private FleetListener {
 public:
  // All pointers must outlive the dispatcher. REQUIRES: options.policy exists.
  Dispatcher(DispatchOptions options,
             EventLoop* loop,
             Executor* text,
             WorkerLinkFactory make_link,
             RouterMetrics* metrics,
             Fleet::ResolveFn resolve = nullptr);
  ~Dispatcher() override;

  // Starts to attach to the fleet. Once; before or after the loop starts.
  void Start();

  std::shared_ptr<CallHandle> Start(CallRequest request, std::shared_ptr<CallSink> sink) override;
  std::variant<TokenizeResult, ApiError> Tokenize(const v1::TokenizeRequest& request) override;
  std::variant<std::string, ApiError> Detokenize(const v1::DetokenizeRequest& request) override;
  std::vector<v1::ModelInfo> ListModels() override;
  bool Ready() override;

  // From now on calls are refused with 503 draining; those that run end as usual.
  void BeginDrain() { is_draining_ = true; }
  // No call is left since BeginDrain.
  bool Drained() const { return is_draining_ && live_calls_ == 0; }
  // Ends every call with 503 draining. Loop thread.
  void FailAll();

  // See Fleet::SetAddresses. Any thread.
  void SetAddresses(std::vector<std::string> addresses);

  // For Admin, any thread. `done` runs on the loop; it is destroyed uncalled if the loop has
  // stopped. At most a quarter of a second old:
  std::vector<v1::ReplicaInfo> Replicas() const;
  // Settings that may change while calls run; those that wait already stay. Any thread.
  // REQUIRES: `policy` exists.
  void SetLimits(QueueOptions queue, std::string policy);
  // See Fleet::SetWorkers. Any thread.
  void SetWorkers(WorkerAddresses workers);
  // See Fleet::Drain.
  void DrainReplica(std::string name, bool is_drained, std::function<void(absl::Status)> done);
  // Of all attached replicas of `model` (empty: of any); gives their number. NotFound: there was
  // never such a model.
  void FlushPrefixCache(std::string model, std::function<void(absl::StatusOr<int32_t>)> done);

  // What the status page shows; at most a quarter of a second old.
  struct Activity {
    int64_t queued_requests = 0;
    int64_t queued_tokens = 0;
    int64_t running_requests = 0;
    double prompt_tokens_per_second = 0;  // of prompts that began to run, over the last seconds
    double generation_tokens_per_second = 0;
  };
  Activity RecentActivity() const;

 private:
  class Handle;
  class Arrival;
  using CallPtr = std::shared_ptr<CallState>;

  // Some choices of a call at one replica: what one Submit asked for.
  struct Part {
    uint64_t call = 0;
    int32_t replica = 0;
    int32_t attempt = 0;
    PendingPart choices;
    int64_t base_tokens = 0;  // prompt and replayed tokens
    int64_t uncached_tokens = 0;
    int32_t block_size = 1;
    bool is_accepted = false;    // its replica has it, so it may be what kills it
    bool is_begun = false;       // a first result came
    std::set<int32_t> finished;  // choices that the worker ended
    Footprint footprint;         // as counted at the fleet
    int64_t sent_ns = 0;
    std::string replica_id;
    std::string span_id;     // empty: its call is not recorded
    const char* error = "";  // why it ended early
  };
  struct TextSlot {
    std::shared_ptr<const TextModel> text;
    bool is_building = false;
  };
  enum class Placed { kSent, kNoRoom, kNotReady, kNever };

  // dispatcher.cc: a call's life.
  void Accept(const CallPtr& call);
  void OnPrepared(const CallPtr& call,
                  std::variant<Prepared, ApiError> result,
                  const TextTimes& times);
  void RecordText(const CallState& call, const TextTimes& times);
  void ArmDeadline(const CallPtr& call);
  void ArmWait(CallState& call, int64_t wait_ms);
  void OnWaitTimer(uint64_t id);
  void Complete(const CallPtr& call);
  void Fail(const CallPtr& call, const ApiError& error);
  void Release(const CallPtr& call);
  void RecordFinished(const CallState& call,
                      absl::StatusCode code,
                      std::string_view finished,
                      const std::string& error);
  void RecordSpans(const CallState& call, std::string_view finished, const std::string& error);
  void Cancel(uint64_t id);
  void OnReader(uint64_t id, bool is_slow);
  CallPtr Find(uint64_t id) const;

  // dispatcher_placement.cc: from queue to replica.
  void TryDispatch();
  void DispatchReplays();
  void DispatchQueue(const std::string& model);
  bool PlacePending(const CallPtr& call);
  Placed Place(const CallPtr& call, const PendingPart& part);
  bool HasEqualReplica(const CallState& call) const;
  void SendPart(const CallPtr& call, const PendingPart& part, const Picked& picked);
  void RecordSent(const CallState& call, const PendingPart& range, const Part& part) const;
  std::string WireId(const CallState& call, const PendingPart& part) const;
  void UpdateFootprint(const CallState& call, Part& part);
  void DropPart(const std::string& wire_id, bool cancel);

  // dispatcher_results.cc: what replicas say, and failover.
  void OnAccepted(const Replica& replica, const v1::Accepted& accepted) override;
  void OnStepResult(const Replica& replica, const v1::StepResult& step) override;
  void OnResult(const Replica& replica, const v1::SequenceResult& result);
  void OnFailedResult(const CallPtr& call, Part& part, const v1::SequenceResult& result);
  void AfterDelivery(const CallPtr& call,
                     const std::string& wire_id,
                     const v1::SequenceResult& result);
  void Requeue(const CallPtr& call,
               const PendingPart& part,
               int32_t replica,
               const std::string& replica_id,
               const char* reason);
  // It is not sent anywhere while so many replicas may have died of it.
  bool IsSuspect(const CallState& call) const {
    return static_cast<int32_t>(call.deaths.size()) >= options_.max_deaths;
  }
  void FailAsPoison(const CallPtr& call);
  void OnReplicaDown(const Replica& replica, bool is_lost, const absl::Status& why) override;
  void OnLoad(const Replica& replica) override;

  // dispatcher_models.cc: what the fleet serves.
  void OnReplicaUp(const Replica& replica) override;
  void BuildText(const std::string& digest);
  void PublishModels();
  void PublishStats();

  const DispatchOptions options_;
  std::string policy_name_;
  PolicyFn policy_;
  EventLoop* const loop_;
  Executor* const text_;
  RouterMetrics* const metrics_;

  // Any thread.
  std::atomic<uint64_t> next_call_{1};
  std::atomic<int64_t> live_calls_{0};
  std::atomic<bool> is_draining_{false};
  Catalog catalog_;
  mutable std::mutex replicas_mutex_;
  std::vector<v1::ReplicaInfo> replica_infos_;  // guarded by replicas_mutex_
  Activity activity_;                           // guarded by replicas_mutex_

  // Loop thread.
  Fleet fleet_;
  absl::btree_map<uint64_t, CallPtr> calls_;
  absl::flat_hash_map<std::string, Part> parts_;  // by wire id
  FairQueue queue_;
  std::deque<uint64_t> replays_;  // running calls with pending parts, oldest first
  SlidingCount drained_;          // calls that left the queue
  SlidingCount recent_prompt_tokens_;
  SlidingCount recent_tokens_;  // generated
  RetryBudget retry_budget_;
  Quarantine quarantine_;
  absl::flat_hash_map<std::string, TextSlot> texts_;  // by tokenizer digest
  std::set<std::string> known_replicas_;              // with metrics
  std::mt19937_64 random_;
  uint64_t picks_ = 0;
  int64_t num_preparing_ = 0;
  int64_t preparing_bytes_ = 0;
  bool is_dispatching_ = false;
  EventLoop::TimerId retry_timer_;
  EventLoop::TimerId stats_timer_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_DISPATCHER_H_
