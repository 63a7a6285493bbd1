#include "router/dispatch/dispatcher.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "proto/support/log.h"
#include "proto/support/log_format.h"
#include "router/dispatch/errors.h"
#include "router/tenancy/api_keys.h"

namespace paceline::router {
namespace {

constexpr int64_t kMs = 1'000'000;  // nanoseconds

const v1::RequestOptions& OptionsOf(const CallRequest& request) {
  return std::visit([](const auto& body) -> const v1::RequestOptions& { return body.options(); },
                    request.body);
}

const std::string& ModelOf(const CallRequest& request) {
  return std::visit([](const auto& body) -> const std::string& { return body.model(); },
                    request.body);
}

int64_t BytesOf(const CallRequest& request) {
  return std::visit([](const auto& body) { return static_cast<int64_t>(body.ByteSizeLong()); },
                    request.body);
}

// The earlier of the transport's deadline and options.timeout; an invalid timeout is the
// validator's.
int64_t DeadlineOf(const CallRequest& request, int64_t now_ns) {
  int64_t deadline_ns = request.deadline_ns;
  const v1::RequestOptions& options = OptionsOf(request);
  if (options.has_timeout() && options.timeout() > 0 && options.timeout() <= 86400) {
    const int64_t by_timeout = now_ns + std::llround(options.timeout() * 1e9);
    deadline_ns = deadline_ns == 0 ? by_timeout : std::min(deadline_ns, by_timeout);
  }
  return deadline_ns;
}

// The label of a call that was refused before it ran.
std::string_view RejectLabel(const ApiError& error) {
  for (const char* code : {"queue_full",
                           "draining",
                           "no_ready_replica",
                           "model_not_found",
                           "deadline_exceeded",
                           "cancelled",
                           "poison_suspected",
                           "context_length_exceeded",
                           "kv_capacity_exceeded"}) {
    if (error.code == code) return code;
  }
  return error.status == absl::StatusCode::kInvalidArgument ? "invalid" : "other";
}

}  // namespace

// A call on its way to the loop. If the loop has stopped, it is answered here and now.
class Dispatcher::Arrival {
 public:
  explicit Arrival(CallPtr call) : call_(std::move(call)) {}
  Arrival(Arrival&&) = default;
  ~Arrival() {
    if (call_ != nullptr) call_->sink->OnError(DrainingError());
  }
  CallPtr Take() { return std::move(call_); }

 private:
  CallPtr call_;
};

// Copies may outlive the dispatcher: its methods are reached through the loop only.
class Dispatcher::Handle final : public CallHandle {
 public:
  Handle(Dispatcher* dispatcher, uint64_t id)
      : dispatcher_(dispatcher),
        poster_(dispatcher->loop_->poster()),
        pause_bytes_(dispatcher->options_.pause_bytes),
        resume_bytes_(dispatcher->options_.resume_bytes),
        id_(id) {}

  void Cancel() override {
    poster_.Post([dispatcher = dispatcher_, id = id_] { dispatcher->Cancel(id); });
  }

  void SetUnsentBytes(int64_t bytes) override {
    // Only crossings of the two limits matter to the loop.
    if (bytes > pause_bytes_) {
      if (!is_slow_.exchange(true)) PostReader(true);
    } else if (bytes <= resume_bytes_) {
      if (is_slow_.load(std::memory_order_relaxed) && is_slow_.exchange(false)) PostReader(false);
    }
  }

 private:
  void PostReader(bool is_slow) {
    poster_.Post(
        [dispatcher = dispatcher_, id = id_, is_slow] { dispatcher->OnReader(id, is_slow); });
  }

  Dispatcher* const dispatcher_;  // valid while the loop runs
  const Poster poster_;
  const int64_t pause_bytes_;
  const int64_t resume_bytes_;
  const uint64_t id_;
  std::atomic<bool> is_slow_{false};
};

Dispatcher::Dispatcher(DispatchOptions options,
                       EventLoop* loop,
                       Executor* text,
                       WorkerLinkFactory make_link,
                       RouterMetrics* metrics,
                       Fleet::ResolveFn resolve)
    : options_(std::move(options)),
      policy_name_(options_.policy),
      policy_(FindPolicy(policy_name_)),
      loop_(loop),
      text_(text),
      metrics_(metrics),
      fleet_(options_.fleet, loop, std::move(make_link), this, std::move(resolve)),
      queue_(options_.queue),
      retry_budget_(options_.retry_budget),
      quarantine_(options_.quarantine_ms),
      random_(std::random_device{}() | static_cast<uint64_t>(std::random_device{}()) << 32) {
  PACELINE_CHECK(policy_ != nullptr, "unknown balancing policy");
}

Dispatcher::~Dispatcher() {
  loop_->CancelTimer(retry_timer_);
  loop_->CancelTimer(stats_timer_);
}

void Dispatcher::Start() {
  loop_->Post([this] {
    fleet_.Start();
    PublishStats();
  });
}

std::shared_ptr<CallHandle> Dispatcher::Start(CallRequest request, std::shared_ptr<CallSink> sink) {
  const uint64_t id = next_call_.fetch_add(1);
  ++live_calls_;
  auto call =
      std::make_shared<CallState>(id, std::move(request), std::move(sink), loop_->clock().NowNs());
  loop_->Post([this, arrival = Arrival(std::move(call))]() mutable { Accept(arrival.Take()); });
  return std::make_shared<Handle>(this, id);
}

void Dispatcher::Accept(const CallPtr& call) {
  const int64_t now_ns = loop_->clock().NowNs();
  calls_[call->id] = call;
  call->trace = CallTrace(options_.spans, call->request.traceparent);
  if (is_draining_) return Fail(call, DrainingError());
  call->deadline_ns = DeadlineOf(call->request, call->arrived_ns);
  if (call->deadline_ns > 0 && call->deadline_ns <= now_ns) return Fail(call, DeadlineError());
  auto model = catalog_.Get()->Find(ModelOf(call->request));
  if (const auto* error = std::get_if<ApiError>(&model)) return Fail(call, *error);
  call->model = std::get<std::shared_ptr<const Model>>(std::move(model));
  const int64_t bytes = BytesOf(call->request);
  // Before any text work, so that refusing stays cheap however much is refused.
  if (!queue_.HasRoom(num_preparing_ + 1, 0) ||
      (num_preparing_ > 0 && preparing_bytes_ + bytes > options_.max_preparing_bytes)) {
    const int64_t waiting = queue_.num_requests() + num_preparing_;
    return Fail(call, QueueFullError(RetryAfterMs(waiting, drained_.Sum(now_ns))));
  }
  retry_budget_.CountRequest(now_ns);
  ArmDeadline(call);
  ++num_preparing_;
  preparing_bytes_ += bytes;
  text_->Post([this, call, bytes, model = call->model, poster = loop_->poster()] {
    TextTimes times;
    auto result = Prepare(call->request, *model, options_.limits, loop_->clock(), times);
    poster.Post([this, call, bytes, times, result = std::move(result)]() mutable {
      --num_preparing_;
      preparing_bytes_ -= bytes;
      OnPrepared(call, std::move(result), times);
    });
  });
}

void Dispatcher::OnPrepared(const CallPtr& call,
                            std::variant<Prepared, ApiError> result,
                            const TextTimes& times) {
  const bool is_cancelled = Find(call->id) == nullptr;
  RecordText(*call, times);
  if (is_cancelled) return;
  if (const auto* error = std::get_if<ApiError>(&result)) return Fail(call, *error);
  const int64_t now_ns = loop_->clock().NowNs();
  call->Begin(std::get<Prepared>(std::move(result)),
              absl::StrFormat("%016x%016x", random_(), random_()),
              random_() >> 1);
  const auto prompt_tokens = static_cast<int64_t>(call->prepared.prompt_ids.size());
  if (!quarantine_.empty() &&
      quarantine_.Contains(
          Quarantine::Fingerprint(call->model->info.id(),
                                  call->request.tenant,
                                  call->prepared.request.sampling.SerializeAsString(),
                                  call->prepared.prompt_ids),
          now_ns)) {
    return Fail(call, PoisonError());
  }
  if (!queue_.HasRoom(1, prompt_tokens)) {
    return Fail(call, QueueFullError(RetryAfterMs(queue_.num_requests(), drained_.Sum(now_ns))));
  }
  call->phase = CallPhase::kQueued;
  call->queued_ns = now_ns;
  queue_.Push({.id = call->id,
               .model = call->model->info.id(),
               .tenant = call->request.tenant,
               .priority = call->prepared.request.priority,
               .prompt_tokens = prompt_tokens,
               .enqueued_ns = now_ns});
  ArmWait(*call, options_.no_replica_wait_ms);
  TryDispatch();
}

void Dispatcher::RecordText(const CallState& call, const TextTimes& times) {
  const auto record = [&](const char* name, int64_t from_ns, int64_t to_ns) {
    metrics_->OnTextWork(name, static_cast<double>(to_ns - from_ns) / 1e9);
    if (call.trace.is_recorded()) call.trace.Add(name, from_ns, to_ns);
  };
  if (times.rendered_ns != 0) record("template", times.begin_ns, times.rendered_ns);
  if (times.encoded_ns != 0) {
    record("tokenise", std::max(times.begin_ns, times.rendered_ns), times.encoded_ns);
  }
}

void Dispatcher::ArmDeadline(const CallPtr& call) {
  if (call->deadline_ns == 0) return;
  call->deadline_timer = loop_->RunAt(call->deadline_ns, [this, id = call->id] {
    if (const CallPtr found = Find(id)) Fail(found, DeadlineError());
  });
}

void Dispatcher::ArmWait(CallState& call, int64_t wait_ms) {
  loop_->CancelTimer(call.wait_timer);
  call.wait_timer = loop_->RunAt(loop_->clock().NowNs() + wait_ms * kMs,
                                 [this, id = call.id] { OnWaitTimer(id); });
}

// A call has waited long enough to give up if no replica is ready; otherwise it is only a matter of
// room and it goes on waiting.
void Dispatcher::OnWaitTimer(uint64_t id) {
  const CallPtr call = Find(id);
  if (call == nullptr || call->pending.empty()) return;
  const auto models = catalog_.Get();
  const auto found = models->by_id.find(call->model->info.id());
  // A model that came back with another tokenizer cannot run what was encoded with the old one.
  if (found == models->by_id.end() || found->second->info.replicas_ready() == 0 ||
      found->second->tokenizer_digest != call->model->tokenizer_digest) {
    return Fail(call, NoReadyReplicaError());
  }
  if (call->phase == CallPhase::kQueued) return ArmWait(*call, options_.no_replica_wait_ms);
  if (IsSuspect(*call)) return FailAsPoison(call);
  // One that the retry budget holds back has not been looked for a place yet.
  if (!call->has_retry_grant) return ArmWait(*call, options_.failover_wait_ms);
  // Running, but its parts found no place for the whole wait.
  Fail(call, HasEqualReplica(*call) ? NoReadyReplicaError() : NoEqualReplicaError());
}

void Dispatcher::Complete(const CallPtr& call) {
  const v1::Usage usage = call->UsageSoFar();
  const bool is_length = call->choices[0].finish_reason == v1::FINISH_REASON_LENGTH;
  RecordFinished(*call, absl::StatusCode::kOk, is_length ? "length" : "stop", "");
  Release(call);
  call->sink->OnDone(usage);
}

void Dispatcher::Fail(const CallPtr& call, const ApiError& error) {
  if (call->sent_ns == 0) metrics_->OnReject(RejectLabel(error));
  const bool is_abort = error.status == absl::StatusCode::kCancelled;
  RecordFinished(*call,
                 error.status,
                 is_abort ? "abort" : "error",
                 error.code.empty() ? absl::StatusCodeToString(error.status) : error.code);
  Release(call);
  call->sink->OnError(error);
}

// Takes the call out of everything: queue, replicas, timers, log.
void Dispatcher::Release(const CallPtr& call) {
  queue_.Remove(call->id);
  replays_.erase(std::remove(replays_.begin(), replays_.end(), call->id), replays_.end());
  const bool freed = !call->parts.empty();
  while (!call->parts.empty()) DropPart(call->parts.back(), /*cancel=*/true);
  loop_->CancelTimer(call->deadline_timer);
  loop_->CancelTimer(call->wait_timer);
  loop_->CancelTimer(call->reader_timer);
  calls_.erase(call->id);
  --live_calls_;
  if (freed) TryDispatch();
}

void Dispatcher::RecordFinished(const CallState& call,
                                absl::StatusCode code,
                                std::string_view finished,
                                const std::string& error) {
  // What went wrong on our side while it ran is worth a line at every level.
  const bool is_our_fault =
      code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kInternal;
  const LogRequest about(call.request_id, call.trace.traceparent());
  spdlog::log(is_our_fault && call.sent_ns != 0 ? spdlog::level::warn : spdlog::level::debug,
              "request {} ends: {}",
              call.request_id.empty() ? "(not prepared)" : call.request_id,
              absl::StatusCodeToString(code));
  if (call.trace.is_recorded()) RecordSpans(call, finished, error);
  metrics_->OnFinished({.model = call.model == nullptr ? "" : call.model->info.id(),
                        .replica = call.last_replica,
                        .tenant = call.request.tenant,
                        .finished = finished,
                        .arrived_ns = call.arrived_ns,
                        .queued_ns = call.queued_ns,
                        .sent_ns = call.sent_ns,
                        .first_token_ns = call.first_token_ns,
                        .last_token_ns = call.last_token_ns,
                        .finished_ns = loop_->clock().NowNs(),
                        .prompt_tokens = static_cast<int64_t>(call.prepared.prompt_ids.size()),
                        .generation_tokens = call.UsageSoFar().completion_tokens(),
                        .max_tokens = call.prepared.request.sampling.max_tokens(),
                        .n = std::max<int32_t>(1, static_cast<int32_t>(call.choices.size()))});
}

// What ends with the call, and the call itself.
void Dispatcher::RecordSpans(const CallState& call,
                             std::string_view finished,
                             const std::string& error) {
  const int64_t now_ns = loop_->clock().NowNs();
  if (call.queued_ns != 0 && call.sent_ns == 0) {
    call.trace.Add("queue", call.queued_ns, now_ns, error);
  }
  for (const PendingPart& part : call.pending) {
    if (part.lost_ns == 0) continue;
    call.trace.Add(
        "failover",
        part.lost_ns,
        now_ns,
        error,
        {{"paceline.replica.from", part.lost_replica}, {"paceline.reason", part.reason}});
  }
  const std::string operation =
      std::holds_alternative<v1::ChatRequest>(call.request.body) ? "chat" : "text_completion";
  const std::string model = call.model == nullptr ? "" : call.model->info.id();
  std::vector<SpanAttribute> attributes = {
      {"gen_ai.operation.name", operation},
      {"gen_ai.request.model", model},
      {"gen_ai.request.max_tokens", int64_t{call.prepared.request.sampling.max_tokens()}},
      {"gen_ai.usage.input_tokens", static_cast<int64_t>(call.prepared.prompt_ids.size())},
      {"gen_ai.usage.output_tokens", int64_t{call.UsageSoFar().completion_tokens()}},
      {"paceline.request_id", call.request_id},
      {"paceline.finished_reason", std::string(finished)}};
  if (!error.empty()) attributes.push_back({"error.type", error});
  call.trace.End(model.empty() ? operation : absl::StrCat(operation, " ", model),
                 call.arrived_ns,
                 now_ns,
                 error,
                 std::move(attributes));
}

void Dispatcher::Cancel(uint64_t id) {
  if (const CallPtr call = Find(id)) Fail(call, CancelledError());
}

void Dispatcher::OnReader(uint64_t id, bool is_slow) {
  const CallPtr call = Find(id);
  if (call == nullptr || call->is_paused == is_slow) return;
  call->is_paused = is_slow;
  for (const std::string& wire_id : call->parts) {
    v1::RouterMessage message;
    if (is_slow) {
      message.mutable_pause()->set_request_id(wire_id);
    } else {
      message.mutable_resume()->set_request_id(wire_id);
    }
    fleet_.Send(parts_.at(wire_id).replica, std::move(message));
  }
  if (!is_slow) return loop_->CancelTimer(call->reader_timer);
  metrics_->OnStreamPaused();
  call->reader_timer =
      loop_->RunAt(loop_->clock().NowNs() + options_.slow_reader_ms * kMs, [this, id] {
        const CallPtr slow = Find(id);
        if (slow == nullptr) return;
        metrics_->OnSlowReaderCancelled();
        Fail(slow, SlowReaderError());
      });
}

Dispatcher::CallPtr Dispatcher::Find(uint64_t id) const {
  const auto found = calls_.find(id);
  return found == calls_.end() ? nullptr : found->second;
}

void Dispatcher::FailAll() {
  is_draining_ = true;
  while (!calls_.empty()) Fail(CallPtr(calls_.begin()->second), DrainingError());
}

Dispatcher::Activity Dispatcher::RecentActivity() const {
  const std::lock_guard<std::mutex> lock(replicas_mutex_);
  return activity_;
}

std::vector<v1::ReplicaInfo> Dispatcher::Replicas() const {
  const std::lock_guard<std::mutex> lock(replicas_mutex_);
  return replica_infos_;
}

}  // namespace paceline::router
