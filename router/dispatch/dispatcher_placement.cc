// Dispatcher, from the queue to a replica.
#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "proto/support/log_format.h"
#include "proto/support/trace.h"
#include "router/dispatch/dispatcher.h"
#include "router/dispatch/errors.h"

namespace paceline::router {
namespace {

constexpr int64_t kMs = 1'000'000;  // nanoseconds
// When to look again at retries that the budget held back.
constexpr int64_t kRetryPollMs = 100;
constexpr size_t kMaxWireIdBytes = 96;

}  // namespace

void Dispatcher::TryDispatch() {
  // Placing may end calls, which makes room and calls this again: once is enough.
  if (is_dispatching_) return;
  is_dispatching_ = true;
  if (!replays_.empty()) DispatchReplays();
  if (queue_.num_requests() > 0) {
    const auto models = catalog_.Get();
    for (const auto& [model, entry] : models->by_id) DispatchQueue(model);
  }
  is_dispatching_ = false;
}

// Calls that run already go before those that wait.
void Dispatcher::DispatchReplays() {
  bool is_held_back = false;
  const std::deque<uint64_t> waiting = std::exchange(replays_, {});
  for (const uint64_t id : waiting) {
    const CallPtr call = Find(id);
    if (call == nullptr || call->pending.empty()) continue;
    if (IsSuspect(*call)) {
      replays_.push_back(id);
      continue;
    }
    if (!call->has_retry_grant && !retry_budget_.Take(loop_->clock().NowNs())) {
      is_held_back = true;
      replays_.push_back(id);
      continue;
    }
    call->has_retry_grant = true;
    if (PlacePending(call)) {
      call->has_retry_grant = false;
      loop_->CancelTimer(call->wait_timer);
    } else if (Find(id) != nullptr) {
      replays_.push_back(id);
    }
  }
  if (is_held_back && retry_timer_ == EventLoop::TimerId{}) {
    retry_timer_ = loop_->RunAt(loop_->clock().NowNs() + kRetryPollMs * kMs, [this] {
      retry_timer_ = {};
      TryDispatch();
    });
  }
}

void Dispatcher::DispatchQueue(const std::string& model) {
  while (const QueueItem* item = queue_.Next(model)) {
    const CallPtr call = Find(item->id);
    switch (Place(call, call->pending.front())) {
      case Placed::kSent:
        queue_.Remove(call->id);
        drained_.Add(loop_->clock().NowNs());
        call->pending.clear();
        call->phase = CallPhase::kRunning;
        loop_->CancelTimer(call->wait_timer);
        break;
      case Placed::kNever:
        Fail(call,
             InvalidParam("max_tokens",
                          "No ready replica can hold the prompt and max_tokens",
                          "kv_capacity_exceeded"));
        break;
      case Placed::kNoRoom:
      case Placed::kNotReady:
        return;  // the next ones may not overtake it
    }
  }
}

// Sends what it can of what is pending of a running call; false when something is left (or the call
// has failed). Choices wait for different replicas when they began on different ones.
bool Dispatcher::PlacePending(const CallPtr& call) {
  const std::vector<PendingPart> pending = std::exchange(call->pending, {});
  for (const PendingPart& part : pending) {
    const Placed placed = Place(call, part);
    if (placed == Placed::kNever) {
      Fail(call, AttemptsExhaustedError());
      return false;
    }
    if (placed != Placed::kSent) call->pending.push_back(part);
  }
  return call->pending.empty();
}

Dispatcher::Placed Dispatcher::Place(const CallPtr& call, const PendingPart& part) {
  const FleetSnapshot snapshot = fleet_.Snapshot(call->model->info.id());
  const int64_t emitted = call->tokens_of(part.first_choice);
  RequestView view{
      .prompt_tokens = static_cast<int64_t>(call->prepared.prompt_ids.size()) + emitted,
      .max_tokens = call->prepared.request.sampling.max_tokens() - emitted,
      .n = part.n,
      .tokenizer_digest = call->model->tokenizer_digest,
      .is_replay = emitted > 0,
      .numerics = call->choices[part.first_choice].numerics,
      .avoid = call->avoid,
      .session = call->prepared.request.cache_salt,
      .random = random_(),
      .serial = picks_,
  };
  if (view.session.empty()) view.session = call->request.tenant;
  for (const ReplicaView& replica : snapshot.replicas) {
    if (!replica.is_ready || (view.is_replay && replica.numerics != view.numerics)) continue;
    view.model_digest = replica.model_digest;
    view.block_size = replica.block_size;
    // Prompts whose log-probabilities are wanted are computed whole.
    if (call->prepared.request.sampling.prompt_logprobs() < 0) {
      view.prefix = call->PrefixHashes(std::string(replica.model_digest), replica.block_size);
    }
    break;
  }
  const PickResult result = Pick(policy_, view, snapshot);
  if (const auto* picked = std::get_if<Picked>(&result)) {
    ++picks_;
    metrics_->OnPick(policy_name_, "picked");
    SendPart(call, part, *picked);
    return Placed::kSent;
  }
  if (const auto* wait = std::get_if<Wait>(&result)) {
    metrics_->OnPick(policy_name_, wait->is_any_ready ? "wait_full" : "wait_not_ready");
    return wait->is_any_ready ? Placed::kNoRoom : Placed::kNotReady;
  }
  metrics_->OnPick(policy_name_, "fail");
  return Placed::kNever;
}

// Whether a ready replica could go on with what is pending of a running call.
bool Dispatcher::HasEqualReplica(const CallState& call) const {
  const FleetSnapshot snapshot = fleet_.Snapshot(call.model->info.id());
  const ChoiceState& choice = call.choices[call.pending.front().first_choice];
  return std::any_of(
      snapshot.replicas.begin(), snapshot.replicas.end(), [&](const ReplicaView& replica) {
        return replica.is_ready && (choice.emitted.empty() || replica.numerics == choice.numerics);
      });
}

void Dispatcher::SendPart(const CallPtr& call, const PendingPart& range, const Picked& picked) {
  const int64_t now_ns = loop_->clock().NowNs();
  const Replica& replica = *fleet_.Find(picked.replica);
  for (int32_t i = 0; i < range.n; ++i) {
    ChoiceState& choice = call->choices[range.first_choice + i];
    ++choice.attempts;
    if (choice.emitted.empty()) choice.numerics = replica.hello.numerics();
  }
  const std::string wire_id = WireId(*call, range);
  const std::string span_id = call->trace.is_recorded() ? NewSpanId() : "";
  v1::RouterMessage message;
  *message.mutable_submit() = call->MakeSubmit(range, call->trace.TraceparentOf(span_id), now_ns);
  message.mutable_submit()->set_request_id(wire_id);

  Part& part = parts_[wire_id];
  part.call = call->id;
  part.replica = picked.replica;
  part.attempt = message.submit().attempt();
  part.choices = range;
  part.base_tokens = message.submit().prompt_token_ids_size();
  part.uncached_tokens = std::max<int64_t>(0, part.base_tokens - picked.matched_tokens);
  part.block_size = replica.hello.block_size();
  part.sent_ns = now_ns;
  part.replica_id = replica.hello.replica_id();
  part.span_id = span_id;
  if (call->trace.is_recorded()) RecordSent(*call, range, part);
  call->parts.push_back(wire_id);
  UpdateFootprint(*call, part);
  fleet_.Send(picked.replica, std::move(message));
  if (call->is_paused) {
    v1::RouterMessage pause;
    pause.mutable_pause()->set_request_id(wire_id);
    fleet_.Send(picked.replica, std::move(pause));
  }
  const LogRequest about(call->request_id, call->trace.traceparent());
  spdlog::debug("request {} goes to replica {} as {}: {} tokens",
                call->request_id,
                replica.hello.replica_id(),
                wire_id,
                part.base_tokens);
  call->last_replica = replica.hello.replica_id();
  if (call->sent_ns != 0) return;
  call->sent_ns = now_ns;
  queue_.Charge(call->request.tenant, part.uncached_tokens);
  recent_prompt_tokens_.Add(now_ns, part.base_tokens);
  metrics_->OnSent(call->model->info.id(),
                   picked.matched_tokens,
                   static_cast<double>(call->queued_ns - call->arrived_ns) / 1e9);
}

// The wait that ends now: in the queue, or for another replica.
void Dispatcher::RecordSent(const CallState& call,
                            const PendingPart& range,
                            const Part& part) const {
  if (call.sent_ns == 0) call.trace.Add("queue", call.queued_ns, part.sent_ns);
  if (range.lost_ns == 0) return;
  call.trace.Add("failover",
                 range.lost_ns,
                 part.sent_ns,
                 "",
                 {{"paceline.replica.from", range.lost_replica},
                  {"paceline.replica.to", part.replica_id},
                  {"paceline.reason", range.reason},
                  {"paceline.resumed_tokens", call.tokens_of(range.first_choice)}});
}

// A name that no other part ever had: a client may use its request id again while a predecessor of
// that id is still dying at a worker, whose late results must find nobody.
std::string Dispatcher::WireId(const CallState& call, const PendingPart& part) const {
  return absl::StrCat(call.request_id.substr(0, kMaxWireIdBytes - 40),
                      "~",
                      call.id,
                      "#",
                      part.first_choice,
                      ".",
                      call.choices[part.first_choice].attempts);
}

// Counts at the fleet what the part costs its replica now.
void Dispatcher::UpdateFootprint(const CallState& call, Part& part) {
  Footprint now;
  if (!part.is_begun) now.uncached_tokens = part.uncached_tokens;
  const int64_t shared_blocks = BlocksFor(part.base_tokens, part.block_size);
  const auto prompt_tokens = static_cast<int64_t>(call.prepared.prompt_ids.size());
  for (int32_t i = 0; i < part.choices.n; ++i) {
    const int32_t index = part.choices.first_choice + i;
    if (part.finished.contains(index)) continue;  // one that only the router ended still runs there
    ++now.sequences;
    const int64_t tokens = prompt_tokens + call.tokens_of(index);
    now.blocks += BlocksFor(std::max(tokens, part.base_tokens), part.block_size) - shared_blocks;
  }
  if (now.sequences > 0) now.blocks += shared_blocks;
  if (now == part.footprint) return;
  fleet_.SubtractFootprint(part.replica, part.footprint);
  fleet_.AddFootprint(part.replica, now);
  part.footprint = now;
}

// Forgets a part; `cancel`: also tells its worker, if the worker still runs any of it.
void Dispatcher::DropPart(const std::string& id, bool cancel) {
  const std::string wire_id = id;  // `id` may live in what is erased
  const auto found = parts_.find(wire_id);
  const Part& part = found->second;
  fleet_.SubtractFootprint(part.replica, part.footprint);
  if (cancel && static_cast<int32_t>(part.finished.size()) < part.choices.n) {
    v1::RouterMessage message;
    message.mutable_cancel()->set_request_id(wire_id);
    fleet_.Send(part.replica, std::move(message));
  }
  if (const CallPtr call = Find(part.call)) {
    if (!part.span_id.empty()) {
      call->trace.Add("dispatch",
                      part.sent_ns,
                      loop_->clock().NowNs(),
                      part.error,
                      {{"paceline.replica", part.replica_id},
                       {"paceline.attempt", int64_t{part.attempt}},
                       {"paceline.tokens", part.base_tokens},
                       {"paceline.cached_tokens", part.base_tokens - part.uncached_tokens}},
                      part.span_id);
    }
    call->parts.erase(std::find(call->parts.begin(), call->parts.end(), wire_id));
  }
  parts_.erase(found);
}

}  // namespace paceline::router
