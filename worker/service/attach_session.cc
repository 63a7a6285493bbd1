#include "worker/service/attach_session.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "proto/support/log.h"
#include "proto/support/log_format.h"
#include "proto/support/trace.h"
#include "worker/service/submit.h"

namespace paceline::worker {
namespace {

void AppendHashes(const std::vector<BlockHash>& hashes, std::string& out) {
  for (const BlockHash& hash : hashes) {
    char bytes[16];
    std::memcpy(bytes, &hash.high, 8);
    std::memcpy(bytes + 8, &hash.low, 8);
    out.append(bytes, sizeof(bytes));
  }
}

void FillLoad(const EngineLoad& load, v1::Load& out) {
  out.set_running(load.running);
  out.set_waiting(load.waiting);
  out.set_waiting_tokens(load.waiting_tokens);
  out.set_free_blocks(load.free_blocks);
  out.set_total_blocks(load.total_blocks);
  out.set_step(load.step);
  out.set_routers(load.sessions);
  out.set_is_draining(load.is_draining);
}

void FillLogprobs(const TokenLogprobs& logprobs, v1::Logprobs& out) {
  out.set_logprob(logprobs.logprob);
  out.set_rank(logprobs.rank);
  for (const auto& [id, value] : logprobs.top) {
    out.add_top_ids(id);
    out.add_top_logprobs(value);
  }
}

void FillResult(const SequenceResult& result, v1::SequenceResult& out) {
  out.set_request_id(result.request_id);
  out.set_attempt(result.attempt);
  out.set_choice_index(result.choice_index);
  out.set_first_index(result.first_index);
  out.mutable_token_ids()->Add(result.token_ids.begin(), result.token_ids.end());
  for (const TokenLogprobs& logprobs : result.logprobs) FillLogprobs(logprobs, *out.add_logprobs());
  out.set_finish_reason(static_cast<int32_t>(result.finish_reason));
  if (!result.error.ok()) {
    out.set_error_code(result.error.raw_code());
    out.set_error_message(std::string(result.error.message()));
  }
  out.set_cached_tokens(result.cached_tokens);
  for (const TokenLogprobs& logprobs : result.prompt_logprobs) {
    FillLogprobs(logprobs, *out.add_prompt_logprobs());
  }
  out.set_has_stop_token(result.has_stop_token);
  out.set_stop_token_id(result.stop_token_id);
}

}  // namespace

std::shared_ptr<AttachSession> AttachSession::Create(Engine& engine,
                                                     const Identity& identity,
                                                     const Clock& clock,
                                                     Callbacks callbacks) {
  return std::shared_ptr<AttachSession>(
      new AttachSession(engine, identity, clock, std::move(callbacks)));
}

AttachSession::AttachSession(Engine& engine,
                             const Identity& identity,
                             const Clock& clock,
                             Callbacks callbacks)
    : engine_(engine),
      identity_(identity),
      clock_(clock),
      callbacks_(std::move(callbacks)),
      last_message_ns_(clock.NowNs()),
      last_frame_ns_(last_message_ns_.load()) {}

AttachSession::~AttachSession() = default;

absl::Status AttachSession::OnMessage(const v1::RouterMessage& message) {
  last_message_ns_.store(clock_.NowNs());
  const uint64_t session = session_.load();
  if (message.has_hello()) {
    if (session != 0) return absl::FailedPreconditionError("a second hello on one stream");
    if (message.hello().protocol() != kAttachProtocol) {
      return absl::FailedPreconditionError("this worker speaks protocol 1 only");
    }
    session_.store(engine_.Attach(shared_from_this()));
    return absl::OkStatus();
  }
  if (session == 0) return absl::FailedPreconditionError("the first message must be a hello");
  switch (message.message_case()) {
    case v1::RouterMessage::kSubmit:
      OnSubmit(message.submit());
      break;
    case v1::RouterMessage::kCancel:
      engine_.Cancel(session, message.cancel().request_id());
      break;
    case v1::RouterMessage::kPause:
      engine_.Pause(session, message.pause().request_id());
      break;
    case v1::RouterMessage::kResume:
      engine_.Resume(session, message.resume().request_id());
      break;
    case v1::RouterMessage::kFlushPrefixCache:
      engine_.FlushPrefixCache();
      break;
    default:  // a heartbeat, or a message of a newer router that this worker does not know
      break;
  }
  return absl::OkStatus();
}

void AttachSession::OnSubmit(const v1::Submit& submit) {
  const SubmitLimits limits{.vocab_size = identity_.hello.vocab_size(),
                            .max_model_len = identity_.hello.max_model_len()};
  absl::StatusOr<Request> request =
      RequestFromSubmit(submit, limits, session_.load(), clock_.NowNs());
  if (!request.ok()) {
    // Without the id, which may be what is wrong with it.
    const LogRequest about(
        "", IsValidTraceparent(submit.traceparent()) ? submit.traceparent() : std::string_view());
    spdlog::warn("a request is refused: {}", std::string(request.status().message()));
    Refuse(submit, request.status());
    return;
  }
  v1::WorkerMessage accepted;
  accepted.mutable_accepted()->set_request_id(request->id);
  accepted.mutable_accepted()->set_attempt(request->attempt);
  callbacks_.send(std::move(accepted));
  const LogRequest about(request->id, request->traceparent);
  spdlog::debug(
      "request {}: {} tokens, {} choices", request->id, request->token_ids.size(), request->n);
  engine_.Submit(std::make_shared<const Request>(*std::move(request)));
}

void AttachSession::Refuse(const v1::Submit& submit, const absl::Status& reason) {
  v1::WorkerMessage message;
  const int32_t n = std::clamp(submit.n(), 1, 16);
  for (int32_t i = 0; i < n; ++i) {
    FillResult(SequenceResult{.request_id = submit.request_id(),
                              .attempt = submit.attempt(),
                              .choice_index = submit.first_choice_index() + i,
                              .finish_reason = FinishReason::kError,
                              .error = reason},
               *message.mutable_step()->add_results());
  }
  callbacks_.send(std::move(message));
}

void AttachSession::Close() {
  const uint64_t session = session_.exchange(0);
  if (session != 0) engine_.Detach(session);
}

void AttachSession::OnFrame(Frame frame) {
  // The engine beats several times in a lease, so this is where a vanished router is noticed.
  const int64_t lease_ns = int64_t{identity_.hello.lease_ms()} * 1'000'000;
  const int64_t now_ns = clock_.NowNs();
  // While this process did not run it could hear nobody: the router's lease begins anew.
  if (now_ns - last_frame_ns_ > lease_ns / 2) held_up_ns_ = now_ns;
  last_frame_ns_ = now_ns;
  if (lease_ns > 0 && now_ns - std::max(last_message_ns_.load(), held_up_ns_) > lease_ns) {
    callbacks_.expired();
    return;
  }
  if (!greeted_) {
    greeted_ = true;
    v1::WorkerMessage hello;
    *hello.mutable_hello() = identity_.hello;
    callbacks_.send(std::move(hello));
  }
  const KvEvents& events = frame.kv_events;
  if (frame.kv_reset || !events.empty()) {
    v1::WorkerMessage message;
    v1::KvEvents& out = *message.mutable_kv_events();
    out.set_reset(frame.kv_reset);
    AppendHashes(events.stored, *out.mutable_stored());
    AppendHashes(events.removed, *out.mutable_removed());
    callbacks_.send(std::move(message));
  }
  v1::WorkerMessage message;
  if (frame.results.empty()) {
    FillLoad(frame.load, *message.mutable_heartbeat()->mutable_load());
  } else {
    v1::StepResult& step = *message.mutable_step();
    for (const SequenceResult& result : frame.results) FillResult(result, *step.add_results());
    FillLoad(frame.load, *step.mutable_load());
  }
  callbacks_.send(std::move(message));
}

}  // namespace paceline::worker
