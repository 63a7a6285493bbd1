#include "router/metrics/router_metrics.h"

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace paceline::router {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
template <typename T>
using Family = prometheus::Family<T>;
using prometheus::Counter;
using prometheus::Gauge;
using prometheus::Histogram;

// vLLM's buckets (vllm/v1/metrics/loggers.py).
const Buckets& TtftBuckets() {
  static const Buckets buckets = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                  1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
  return buckets;
}
const Buckets& TokenGapBuckets() {
  static const Buckets buckets = {
      .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
  return buckets;
}
const Buckets& LatencyBuckets() {
  static const Buckets buckets = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                  30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
  return buckets;
}
const Buckets& TokenCountBuckets() {
  static const Buckets buckets = {1,
                                  2,
                                  5,
                                  10,
                                  20,
                                  50,
                                  100,
                                  200,
                                  500,
                                  1000,
                                  2000,
                                  5000,
                                  10000,
                                  20000,
                                  50000,
                                  100000,
                                  200000,
                                  500000,
                                  1000000};
  return buckets;
}
const Buckets& ChoiceBuckets() {
  static const Buckets buckets = {1, 2, 5, 10, 20};
  return buckets;
}
// Of the router's own work.
const Buckets& WorkBuckets() {
  static const Buckets buckets = {
      .00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1};
  return buckets;
}

double Seconds(int64_t from_ns, int64_t to_ns) {
  return static_cast<double>(to_ns - from_ns) / 1e9;
}

// vLLM's series of one (model, replica).
struct EngineSeries {
  Counter* prompt_tokens;
  Counter* generation_tokens;
  Histogram* ttft;
  Histogram* token_gap;
  Histogram* time_per_token;
  Histogram* e2e;
  Histogram* queue_time;
  Histogram* inference_time;
  Histogram* prefill_time;
  Histogram* decode_time;
  Histogram* request_prompt_tokens;
  Histogram* request_generation_tokens;
  Histogram* params_max_tokens;
  Histogram* params_n;
};

}  // namespace

struct RouterMetrics::State {
  explicit State(bool vllm_names) : vllm_names(vllm_names) {}

  Family<Counter>& NewCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry);
  }
  Family<Gauge>& NewGauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
  }
  Family<Histogram>& NewHistogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry);
  }
  // Names that are not ours go to a registry of their own, which Text leaves out when unwanted.
  Family<Counter>& VllmCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(vllm_registry);
  }
  Family<Gauge>& VllmGauge(const char* name, const char* help) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(vllm_registry);
  }
  Family<Histogram>& VllmHistogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(vllm_registry);
  }

  EngineSeries& Engine(const std::string& model, const std::string& replica);
  std::string TenantLabel(const std::string& tenant);

  const bool vllm_names;
  prometheus::Registry registry;
  prometheus::Registry vllm_registry;

  Family<Counter>& requests = NewCounter("paceline_router_requests_total",
                                         "Answered requests by route, code, tenant class");
  Family<Counter>& rejects = NewCounter("paceline_router_admission_rejects_total",
                                        "Calls refused before they ran, by reason");
  Family<Counter>& picks =
      NewCounter("paceline_router_picks_total", "Balancing decisions by policy and outcome");
  Family<Counter>& matched = NewCounter("paceline_router_matched_prefix_tokens_total",
                                        "Prompt tokens found in the picked replica's cache");
  Family<Counter>& retries =
      NewCounter("paceline_router_retries_total", "Choices sent again, by reason");
  Family<Counter>& failovers =
      NewCounter("paceline_router_failovers_total", "Choices sent again after tokens were emitted");
  Family<Counter>& resumed = NewCounter("paceline_router_resumed_tokens_total",
                                        "Emitted tokens replayed on another replica");
  Family<Counter>& pauses =
      NewCounter("paceline_router_stream_pauses_total", "Streams paused for a slow reader");
  Family<Counter>& slow_readers = NewCounter("paceline_router_slow_reader_cancels_total",
                                             "Streams cancelled because the reader stayed slow");
  Family<Counter>& late =
      NewCounter("paceline_router_late_results_total", "Results of attempts that were over");
  Family<Histogram>& text_work =
      NewHistogram("paceline_router_text_seconds", "Template and tokenise time by stage");
  Family<Histogram>& added = NewHistogram("paceline_router_added_latency_seconds",
                                          "Arrival to sent to a replica, less queueing");
  Family<Counter>& tenant_requests =
      NewCounter("paceline_router_tenant_requests_total", "Finished calls that ran, by tenant");
  Family<Counter>& tenant_tokens =
      NewCounter("paceline_router_tenant_tokens_total", "Their tokens, by tenant and kind");
  Family<Counter>& tenant_queue = NewCounter("paceline_router_tenant_queue_seconds_total",
                                             "Their time in the queue, by tenant");
  Family<Gauge>& queue_requests =
      NewGauge("paceline_router_queue_requests", "Requests that wait for a replica");
  Family<Gauge>& queue_tokens =
      NewGauge("paceline_router_queue_prompt_tokens", "Their prompt tokens");
  Family<Gauge>& queue_age =
      NewGauge("paceline_router_queue_oldest_age_seconds", "Age of the oldest waiting request");
  Family<Gauge>& replica_tokens = NewGauge("paceline_router_replica_outstanding_tokens",
                                           "Prompt tokens not yet computed plus running decodes");
  Family<Gauge>& replica_sequences =
      NewGauge("paceline_router_replica_sequences", "Sequences that run or wait on a replica");
  Family<Gauge>& replica_state =
      NewGauge("paceline_router_replica_state", "1 for the state that a replica is in");
  Family<Gauge>& replica_lease =
      NewGauge("paceline_router_replica_lease_age_seconds", "Time since a replica's last frame");
  Family<Gauge>& replica_epoch =
      NewGauge("paceline_router_replica_epoch", "A replica's incarnation");

  Family<Gauge>& vllm_running = VllmGauge("vllm:num_requests_running", "Requests in model batches");
  Family<Gauge>& vllm_waiting =
      VllmGauge("vllm:num_requests_waiting", "Requests waiting to be processed");
  Family<Counter>& vllm_success =
      VllmCounter("vllm:request_success_total", "Finished requests by reason");
  Family<Counter>& vllm_prompt =
      VllmCounter("vllm:prompt_tokens_total", "Prefill tokens processed");
  Family<Counter>& vllm_generation =
      VllmCounter("vllm:generation_tokens_total", "Generation tokens processed");
  Family<Histogram>& vllm_ttft =
      VllmHistogram("vllm:time_to_first_token_seconds", "Time to first token");
  Family<Histogram>& vllm_gap =
      VllmHistogram("vllm:inter_token_latency_seconds", "Time between tokens of a request");
  Family<Histogram>& vllm_tpot = VllmHistogram("vllm:request_time_per_output_token_seconds",
                                               "Mean time per output token of a request");
  Family<Histogram>& vllm_e2e =
      VllmHistogram("vllm:e2e_request_latency_seconds", "End-to-end latency of a request");
  Family<Histogram>& vllm_queue =
      VllmHistogram("vllm:request_queue_time_seconds", "Time a request waited");
  Family<Histogram>& vllm_inference =
      VllmHistogram("vllm:request_inference_time_seconds", "Time a request ran");
  Family<Histogram>& vllm_prefill =
      VllmHistogram("vllm:request_prefill_time_seconds", "Time from sent to first token");
  Family<Histogram>& vllm_decode =
      VllmHistogram("vllm:request_decode_time_seconds", "Time from first to last token");
  Family<Histogram>& vllm_request_prompt =
      VllmHistogram("vllm:request_prompt_tokens", "Prompt tokens of a request");
  Family<Histogram>& vllm_request_generation =
      VllmHistogram("vllm:request_generation_tokens", "Generated tokens of a request");
  Family<Histogram>& vllm_max_tokens =
      VllmHistogram("vllm:request_params_max_tokens", "max_tokens of a request");
  Family<Histogram>& vllm_n = VllmHistogram("vllm:request_params_n", "n of a request");

  std::map<std::pair<std::string, std::string>, EngineSeries> engines;  // (model, replica)
  std::set<std::string> tenants;                                        // with series of their own
  std::map<std::string, std::set<Gauge*>> replica_gauges;  // what SetReplica made, by replica
};

EngineSeries& RouterMetrics::State::Engine(const std::string& model, const std::string& replica) {
  const auto [at, inserted] = engines.try_emplace({model, replica});
  if (!inserted) return at->second;
  const prometheus::Labels labels = {{"model_name", model}, {"engine", replica}};
  at->second = EngineSeries{
      .prompt_tokens = &vllm_prompt.Add(labels),
      .generation_tokens = &vllm_generation.Add(labels),
      .ttft = &vllm_ttft.Add(labels, TtftBuckets()),
      .token_gap = &vllm_gap.Add(labels, TokenGapBuckets()),
      .time_per_token = &vllm_tpot.Add(labels, TokenGapBuckets()),
      .e2e = &vllm_e2e.Add(labels, LatencyBuckets()),
      .queue_time = &vllm_queue.Add(labels, LatencyBuckets()),
      .inference_time = &vllm_inference.Add(labels, LatencyBuckets()),
      .prefill_time = &vllm_prefill.Add(labels, LatencyBuckets()),
      .decode_time = &vllm_decode.Add(labels, LatencyBuckets()),
      .request_prompt_tokens = &vllm_request_prompt.Add(labels, TokenCountBuckets()),
      .request_generation_tokens = &vllm_request_generation.Add(labels, TokenCountBuckets()),
      .params_max_tokens = &vllm_max_tokens.Add(labels, TokenCountBuckets()),
      .params_n = &vllm_n.Add(labels, ChoiceBuckets()),
  };
  return at->second;
}

// Bounded: the first tenants that keys name; keys without one all together; the rest.
std::string RouterMetrics::State::TenantLabel(const std::string& tenant) {
  constexpr size_t kMaxTenants = 32;
  if (tenant.starts_with("key-")) return "unnamed";
  if (tenants.contains(tenant)) return tenant;
  if (tenants.size() == kMaxTenants) return "other";
  tenants.insert(tenant);
  return tenant;
}

RouterMetrics::RouterMetrics(bool vllm_names) : state_(std::make_unique<State>(vllm_names)) {}
RouterMetrics::~RouterMetrics() = default;

std::string RouterMetrics::Text() const {
  std::vector<prometheus::MetricFamily> families = state_->registry.Collect();
  if (state_->vllm_names) {
    std::vector<prometheus::MetricFamily> more = state_->vllm_registry.Collect();
    families.insert(
        families.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
  }
  return prometheus::TextSerializer().Serialize(families);
}

void RouterMetrics::OnAnswered(std::string_view route,
                               absl::StatusCode code,
                               std::string_view tenant_class) {
  state_->requests
      .Add({{"route", route.empty() ? "other" : std::string(route)},
            {"code", absl::AsciiStrToLower(absl::StatusCodeToString(code))},
            {"tenant_class", std::string(tenant_class)}})
      .Increment();
}

void RouterMetrics::OnFinished(const CallStats& call) {
  State& s = *state_;
  if (call.model.empty() || call.replica.empty()) return;
  s.vllm_success
      .Add({{"model_name", call.model},
            {"engine", call.replica},
            {"finished_reason", std::string(call.finished)}})
      .Increment();
  const std::string tenant = s.TenantLabel(call.tenant);
  s.tenant_requests.Add({{"tenant", tenant}}).Increment();
  s.tenant_queue.Add({{"tenant", tenant}}).Increment(Seconds(call.queued_ns, call.sent_ns));
  s.tenant_tokens.Add({{"tenant", tenant}, {"kind", "prompt"}})
      .Increment(static_cast<double>(call.prompt_tokens));
  s.tenant_tokens.Add({{"tenant", tenant}, {"kind", "generated"}})
      .Increment(static_cast<double>(call.generation_tokens));
  EngineSeries& e = s.Engine(call.model, call.replica);
  e.prompt_tokens->Increment(static_cast<double>(call.prompt_tokens));
  e.e2e->Observe(Seconds(call.arrived_ns, call.finished_ns));
  e.queue_time->Observe(Seconds(call.queued_ns, call.sent_ns));
  e.request_prompt_tokens->Observe(static_cast<double>(call.prompt_tokens));
  e.request_generation_tokens->Observe(static_cast<double>(call.generation_tokens));
  e.params_max_tokens->Observe(static_cast<double>(call.max_tokens));
  e.params_n->Observe(call.n);
  if (call.first_token_ns == 0) return;
  e.inference_time->Observe(Seconds(call.sent_ns, call.last_token_ns));
  e.prefill_time->Observe(Seconds(call.sent_ns, call.first_token_ns));
  e.decode_time->Observe(Seconds(call.first_token_ns, call.last_token_ns));
  const double per_choice = static_cast<double>(call.generation_tokens) / call.n;
  if (per_choice > 1) {
    e.time_per_token->Observe(Seconds(call.first_token_ns, call.last_token_ns) / (per_choice - 1));
  }
}

void RouterMetrics::OnSent(const std::string& model, int64_t matched_tokens, double added_seconds) {
  state_->matched.Add({{"model_name", model}}).Increment(static_cast<double>(matched_tokens));
  state_->added.Add({}, WorkBuckets()).Observe(added_seconds);
}

void RouterMetrics::OnFirstToken(const std::string& model,
                                 const std::string& replica,
                                 double ttft_seconds) {
  state_->Engine(model, replica).ttft->Observe(ttft_seconds);
}

void RouterMetrics::OnTokens(const std::string& model, const std::string& replica, int64_t count) {
  state_->Engine(model, replica).generation_tokens->Increment(static_cast<double>(count));
}

void RouterMetrics::OnTokenGap(const std::string& model,
                               const std::string& replica,
                               double seconds) {
  state_->Engine(model, replica).token_gap->Observe(seconds);
}

void RouterMetrics::OnReject(std::string_view reason) {
  state_->rejects.Add({{"reason", std::string(reason)}}).Increment();
}

void RouterMetrics::OnPick(std::string_view policy, std::string_view outcome) {
  state_->picks.Add({{"policy", std::string(policy)}, {"outcome", std::string(outcome)}})
      .Increment();
}

void RouterMetrics::OnRetry(std::string_view reason, int64_t resumed_tokens) {
  state_->retries.Add({{"reason", std::string(reason)}}).Increment();
  if (resumed_tokens == 0) return;
  state_->failovers.Add({}).Increment();
  state_->resumed.Add({}).Increment(static_cast<double>(resumed_tokens));
}

void RouterMetrics::OnStreamPaused() { state_->pauses.Add({}).Increment(); }
void RouterMetrics::OnSlowReaderCancelled() { state_->slow_readers.Add({}).Increment(); }
void RouterMetrics::OnLateResult() { state_->late.Add({}).Increment(); }

void RouterMetrics::OnTextWork(std::string_view stage, double seconds) {
  state_->text_work.Add({{"stage", std::string(stage)}}, WorkBuckets()).Observe(seconds);
}

void RouterMetrics::SetQueue(const QueueStats& queue) {
  state_->queue_requests.Add({}).Set(static_cast<double>(queue.requests));
  state_->queue_tokens.Add({}).Set(static_cast<double>(queue.prompt_tokens));
  state_->queue_age.Add({}).Set(queue.oldest_age_seconds);
}

void RouterMetrics::SetModel(const std::string& model, int64_t running, int64_t waiting) {
  // "router": these are sums over the model's replicas.
  const prometheus::Labels labels = {{"model_name", model}, {"engine", "router"}};
  state_->vllm_running.Add(labels).Set(static_cast<double>(running));
  state_->vllm_waiting.Add(labels).Set(static_cast<double>(waiting));
}

void RouterMetrics::SetReplica(const ReplicaStats& replica) {
  State& s = *state_;
  const prometheus::Labels labels = {{"replica", replica.replica}, {"model_name", replica.model}};
  std::set<Gauge*>& made = s.replica_gauges[replica.replica];
  const auto set = [&](Family<Gauge>& family, const prometheus::Labels& with, double value) {
    Gauge& gauge = family.Add(with);
    gauge.Set(value);
    made.insert(&gauge);
  };
  set(s.replica_tokens, labels, static_cast<double>(replica.outstanding_tokens));
  set(s.replica_sequences, labels, static_cast<double>(replica.sequences));
  set(s.replica_lease, labels, replica.lease_age_seconds);
  set(s.replica_epoch, labels, static_cast<double>(replica.epoch));
  for (const char* state : {"connecting", "loading", "ready", "stalled", "draining", "lost"}) {
    prometheus::Labels with = labels;
    with["state"] = state;
    set(s.replica_state, with, replica.state == state ? 1 : 0);
  }
}

void RouterMetrics::RemoveReplica(const std::string& replica) {
  State& s = *state_;
  for (Gauge* gauge : s.replica_gauges[replica]) {
    for (Family<Gauge>* family : {&s.replica_tokens,
                                  &s.replica_sequences,
                                  &s.replica_lease,
                                  &s.replica_epoch,
                                  &s.replica_state}) {
      family->Remove(gauge);
    }
  }
  s.replica_gauges.erase(replica);
  for (auto at = s.engines.begin(); at != s.engines.end();) {
    if (at->first.second != replica) {
      ++at;
      continue;
    }
    const EngineSeries& e = at->second;
    s.vllm_prompt.Remove(e.prompt_tokens);
    s.vllm_generation.Remove(e.generation_tokens);
    s.vllm_ttft.Remove(e.ttft);
    s.vllm_gap.Remove(e.token_gap);
    s.vllm_tpot.Remove(e.time_per_token);
    s.vllm_e2e.Remove(e.e2e);
    s.vllm_queue.Remove(e.queue_time);
    s.vllm_inference.Remove(e.inference_time);
    s.vllm_prefill.Remove(e.prefill_time);
    s.vllm_decode.Remove(e.decode_time);
    s.vllm_request_prompt.Remove(e.request_prompt_tokens);
    s.vllm_request_generation.Remove(e.request_generation_tokens);
    s.vllm_max_tokens.Remove(e.params_max_tokens);
    s.vllm_n.Remove(e.params_n);
    for (const char* reason : {"stop", "length", "abort", "error"}) {
      s.vllm_success.Remove(&s.vllm_success.Add(
          {{"model_name", at->first.first}, {"engine", replica}, {"finished_reason", reason}}));
    }
    at = s.engines.erase(at);
  }
}

}  // namespace paceline::router
