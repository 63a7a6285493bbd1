// The router's metrics: its own paceline_router_* and those vllm:* that describe whole requests
// (the engine's own numbers come from the workers). Label values are bounded: models and replicas
// of the fleet, tenants that operators named (at most 32), and constants of ours; never a user's
// string. Owned by the process. Text and OnAnswered: any thread. Everything else: the router's loop
// thread.
#ifndef PACELINE_ROUTER_METRICS_ROUTER_METRICS_H_
#define PACELINE_ROUTER_METRICS_ROUTER_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace paceline::router {

// A finished call, whatever its outcome. Times are steady-clock nanoseconds; 0: never happened.
struct CallStats {
  std::string model;          // empty: none that is served
  std::string replica;        // that finished it; empty: none ran it
  std::string tenant;         // as its key says
  std::string_view finished;  // vLLM's finished_reason: stop length abort error
  int64_t arrived_ns = 0;
  int64_t queued_ns = 0;
  int64_t sent_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  int64_t finished_ns = 0;
  int64_t prompt_tokens = 0;
  int64_t generation_tokens = 0;  // over all choices
  int64_t max_tokens = 0;
  int32_t n = 1;
};

// A replica's state at scrape time.
struct ReplicaStats {
  std::string replica;
  std::string model;
  std::string state;
  uint64_t epoch = 0;
  double lease_age_seconds = 0;
  int64_t outstanding_tokens = 0;
  int64_t sequences = 0;
};

struct QueueStats {
  int64_t requests = 0;
  int64_t prompt_tokens = 0;
  double oldest_age_seconds = 0;
};

class RouterMetrics {
 public:
  // `vllm_names`: also export the vllm:* metrics.
  explicit RouterMetrics(bool vllm_names = true);
  ~RouterMetrics();
  RouterMetrics(const RouterMetrics&) = delete;
  RouterMetrics& operator=(const RouterMetrics&) = delete;

  // Everything in Prometheus's text format.
  std::string Text() const;

  // A front end answered a request, whatever it said. `route` is empty if there is none such.
  void OnAnswered(std::string_view route, absl::StatusCode code, std::string_view tenant_class);
  // The core ended a call.
  void OnFinished(const CallStats& call);
  // The prompt of a call that starts to run, and its way from arrival, less its time in the queue.
  void OnSent(const std::string& model, int64_t matched_tokens, double added_seconds);
  void OnFirstToken(const std::string& model, const std::string& replica, double ttft_seconds);
  void OnTokens(const std::string& model, const std::string& replica, int64_t count);
  void OnTokenGap(const std::string& model, const std::string& replica, double seconds);
  // `reason`: queue_full, draining, no_ready_replica, invalid, … (constants)
  void OnReject(std::string_view reason);
  // `outcome`: picked, wait_full, wait_not_ready, fail
  void OnPick(std::string_view policy, std::string_view outcome);
  // `reason`: replica_lost, replica_error, bad_frame
  void OnRetry(std::string_view reason, int64_t resumed_tokens);
  void OnStreamPaused();
  void OnSlowReaderCancelled();
  void OnLateResult();  // of an attempt that is over
  // `stage`: prepare (validate, template and tokenise)
  void OnTextWork(std::string_view stage, double seconds);

  void SetQueue(const QueueStats& queue);
  // vLLM's gauges for one model: sequences in batches; requests in this router's and the replicas'
  // queues.
  void SetModel(const std::string& model, int64_t running, int64_t waiting);
  void SetReplica(const ReplicaStats& replica);
  // Drops every series of a replica that left the fleet.
  void RemoveReplica(const std::string& replica);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_METRICS_ROUTER_METRICS_H_
