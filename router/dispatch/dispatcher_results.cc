// Dispatcher, what replicas say: results, failures, failover.
#include <algorithm>
#include <utility>

#include "proto/support/log.h"
#include "proto/support/log_format.h"
#include "router/dispatch/dispatcher.h"
#include "router/dispatch/errors.h"

namespace paceline::router {
namespace {

// Whether another replica may succeed where one failed with `code`.
bool IsRetryable(absl::StatusCode code) {
  return code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kAborted ||
         code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kCancelled;
}

}  // namespace

void Dispatcher::OnAccepted(const Replica& replica, const v1::Accepted& accepted) {
  const auto found = parts_.find(accepted.request_id());
  if (found != parts_.end() && found->second.attempt == accepted.attempt() &&
      found->second.replica == replica.key) {
    found->second.is_accepted = true;
  }
}

void Dispatcher::OnStepResult(const Replica& replica, const v1::StepResult& step) {
  for (const v1::SequenceResult& result : step.results()) {
    if (result.prompt_logprobs().empty()) continue;
    const auto found = parts_.find(result.request_id());
    if (found != parts_.end() && found->second.attempt == result.attempt() &&
        found->second.replica == replica.key) {
      Find(found->second.call)->TakePromptLogprobs(result);
    }
  }
  for (const v1::SequenceResult& result : step.results()) OnResult(replica, result);
}

void Dispatcher::OnResult(const Replica& replica, const v1::SequenceResult& result) {
  const auto found = parts_.find(result.request_id());
  if (found == parts_.end() || found->second.attempt != result.attempt() ||
      found->second.replica != replica.key) {
    metrics_->OnLateResult();
    return;
  }
  Part& part = found->second;
  const int32_t index = result.choice_index();
  const bool is_ours =
      index >= part.choices.first_choice && index < part.choices.first_choice + part.choices.n;
  const CallPtr call = Find(part.call);
  const bool has_failed = result.finish_reason() > v1::FINISH_REASON_LENGTH;
  if (is_ours && (has_failed || result.finish_reason() < 0)) {
    return OnFailedResult(call, part, result);
  }
  const int64_t now_ns = loop_->clock().NowNs();
  const bool is_first = call->first_token_ns == 0;
  const int64_t before = is_ours ? call->tokens_of(index) : 0;
  const int64_t last_ns = is_ours ? call->choices[index].last_token_ns : 0;
  const absl::Status status = is_ours
                                  ? call->Deliver(result, now_ns)
                                  : absl::InvalidArgumentError("a choice that was not asked for");
  if (!status.ok()) {
    const LogRequest about(call->request_id, call->trace.traceparent());
    spdlog::error("request {}: replica {} broke the protocol: {}",
                  call->request_id,
                  replica.hello.replica_id(),
                  std::string(status.message()));
    const PendingPart range = part.choices;
    part.error = "bad_frame";
    DropPart(result.request_id(), /*cancel=*/true);
    Requeue(call, range, replica.key, replica.hello.replica_id(), "bad_frame");
    return TryDispatch();
  }
  const int64_t added = call->tokens_of(index) - before;
  if (added > 0) {
    const std::string& model = call->model->info.id();
    const std::string& engine = replica.hello.replica_id();
    recent_tokens_.Add(now_ns, added);
    metrics_->OnTokens(model, engine, added);
    if (is_first) {
      metrics_->OnFirstToken(model, engine, static_cast<double>(now_ns - call->arrived_ns) / 1e9);
    }
    if (last_ns != 0) {
      metrics_->OnTokenGap(model, engine, static_cast<double>(now_ns - last_ns) / 1e9);
    }
    queue_.Charge(call->request.tenant, added);
  }
  AfterDelivery(call, result.request_id(), result);
}

// Bookkeeping once a result was applied: what ended, at the worker or for the client.
void Dispatcher::AfterDelivery(const CallPtr& call,
                               const std::string& wire_id,
                               const v1::SequenceResult& result) {
  Part& part = parts_.at(wire_id);
  const int32_t index = result.choice_index();
  part.is_begun = true;
  if (result.finish_reason() != 0) part.finished.insert(index);
  UpdateFootprint(*call, part);
  if (!call->choices[index].is_done) return;
  bool is_part_done = true;
  for (int32_t i = 0; i < part.choices.n; ++i) {
    if (!call->choices[part.choices.first_choice + i].is_done) is_part_done = false;
  }
  // A choice that a stop text ended runs on at the worker until its siblings are done, too: Cancel
  // is per request. Its later tokens are dropped.
  if (is_part_done) DropPart(wire_id, /*cancel=*/true);
  if (call->AllDone()) Complete(call);
  TryDispatch();
}

void Dispatcher::OnFailedResult(const CallPtr& call, Part& part, const v1::SequenceResult& result) {
  const int32_t index = result.choice_index();
  part.finished.insert(index);
  if (call->choices[index].is_done) return UpdateFootprint(*call, part);
  if (result.finish_reason() == v1::FINISH_REASON_DEADLINE) return Fail(call, DeadlineError());
  const bool is_cancelled = result.finish_reason() == v1::FINISH_REASON_CANCELLED;
  const auto code = is_cancelled ? absl::StatusCode::kCancelled
                                 : static_cast<absl::StatusCode>(result.error_code());
  const LogRequest about(call->request_id, call->trace.traceparent());
  spdlog::warn("request {} failed at a replica: code {}, {}",
               call->request_id,
               static_cast<int>(code),
               result.error_message());
  if (code == absl::StatusCode::kInvalidArgument) return Fail(call, WorkerRefusedError());
  if (code == absl::StatusCode::kDataLoss) return Fail(call, NumericalError());
  if (!IsRetryable(code)) return Fail(call, WorkerFailedError());
  const int32_t replica = part.replica;
  const std::string replica_id = part.replica_id;
  part.error = "replica_error";
  const std::string wire_id = result.request_id();
  if (static_cast<int32_t>(part.finished.size()) == part.choices.n) {
    DropPart(wire_id, /*cancel=*/false);
  } else {
    UpdateFootprint(*call, part);
  }
  Requeue(call, {.first_choice = index, .n = 1}, replica, replica_id, "replica_error");
  TryDispatch();
}

// Has the unfinished choices of `range` sent again, elsewhere if possible; fails the call when they
// were sent often enough.
void Dispatcher::Requeue(const CallPtr& call,
                         const PendingPart& range,
                         int32_t replica,
                         const std::string& replica_id,
                         const char* reason) {
  const auto again = [&](int32_t first_choice, int32_t n) {
    call->pending.push_back({.first_choice = first_choice,
                             .n = n,
                             .lost_ns = loop_->clock().NowNs(),
                             .lost_replica = replica_id,
                             .reason = reason});
  };
  int64_t resumed = 0;
  bool is_untouched = true;
  for (int32_t i = 0; i < range.n; ++i) {
    const ChoiceState& choice = call->choices[range.first_choice + i];
    resumed += choice.is_done ? 0 : static_cast<int64_t>(choice.emitted.size());
    is_untouched = is_untouched && !choice.is_done && choice.emitted.empty();
    if (!choice.is_done && choice.attempts >= options_.max_attempts) {
      return Fail(call, AttemptsExhaustedError());
    }
  }
  if (is_untouched) {
    again(range.first_choice, range.n);
  } else {
    for (int32_t i = 0; i < range.n; ++i) {
      const int32_t index = range.first_choice + i;
      if (!call->choices[index].is_done) again(index, 1);
    }
  }
  if (std::find(call->avoid.begin(), call->avoid.end(), replica) == call->avoid.end()) {
    call->avoid.push_back(replica);
  }
  metrics_->OnRetry(reason, resumed);
  if (std::find(replays_.begin(), replays_.end(), call->id) == replays_.end()) {
    replays_.push_back(call->id);
    ArmWait(*call, options_.failover_wait_ms);
  }
}

void Dispatcher::FailAsPoison(const CallPtr& call) {
  const LogRequest about(call->request_id, call->trace.traceparent());
  spdlog::error(
      "request {} was running when {} replicas died", call->request_id, call->deaths.size());
  quarantine_.Add(Quarantine::Fingerprint(call->model->info.id(),
                                          call->request.tenant,
                                          call->prepared.request.sampling.SerializeAsString(),
                                          call->prepared.prompt_ids),
                  loop_->clock().NowNs());
  Fail(call, PoisonError());
}

void Dispatcher::OnReplicaDown(const Replica& replica, bool is_lost, const absl::Status& why) {
  PublishModels();
  if (!is_lost) return;
  const bool is_orderly = why.code() == absl::StatusCode::kCancelled;
  // A damaged frame is the network's doing.
  const bool is_death = !is_orderly && why.code() != absl::StatusCode::kDataLoss;
  struct Hit {
    std::vector<PendingPart> ranges;
    bool is_suspect = false;
  };
  absl::btree_map<uint64_t, Hit> hit;  // by call, oldest first
  std::vector<std::string> wire_ids;
  for (auto& [wire_id, part] : parts_) {
    if (part.replica != replica.key) continue;
    part.error = "replica_lost";
    hit[part.call].ranges.push_back(part.choices);
    hit[part.call].is_suspect |= part.is_accepted && is_death;
    wire_ids.push_back(wire_id);
  }
  for (const std::string& wire_id : wire_ids) DropPart(wire_id, /*cancel=*/false);
  for (const auto& [id, what] : hit) {
    const CallPtr call = Find(id);
    if (what.is_suspect) {
      call->deaths.push_back({.replica = replica.key,
                              .epoch = replica.hello.epoch(),
                              .is_silence = why.code() == absl::StatusCode::kDeadlineExceeded});
    }
    // With a silence among them it waits whether that replica comes back (OnWaitTimer).
    if (IsSuspect(*call) && std::none_of(call->deaths.begin(),
                                         call->deaths.end(),
                                         [](const auto& death) { return death.is_silence; })) {
      FailAsPoison(call);
      continue;
    }
    for (const PendingPart& range : what.ranges) {
      if (Find(id) == nullptr) break;
      if (is_orderly) {  // moving house is no failure of the request
        for (int32_t i = 0; i < range.n; ++i) --call->choices[range.first_choice + i].attempts;
      }
      Requeue(call, range, replica.key, replica.hello.replica_id(), "replica_lost");
    }
  }
  TryDispatch();
}

void Dispatcher::OnLoad(const Replica& replica) {
  if (queue_.num_requests() > 0 || !replays_.empty()) TryDispatch();
}

}  // namespace paceline::router
