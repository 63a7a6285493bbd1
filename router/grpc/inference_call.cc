#include "router/grpc/inference_call.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

#include "router/core/chunk_collector.h"
#include "router/grpc/call_context.h"

namespace paceline::router {
namespace {

// Waiting chunks of one choice are sent as one message up to this size.
constexpr int64_t kMaxMergedBytes = 64 << 10;
// Changes smaller than this are not worth telling the core.
constexpr int64_t kReportStepBytes = 16 << 10;
// A client that is this far behind is not waited for when its call fails.
constexpr int64_t kStuckBytes = 64 << 10;

ApiError CancelledError() {
  return ApiError{.status = absl::StatusCode::kCancelled, .message = "The request was cancelled"};
}

// ---- Unary -------------------------------------------------------------------------------------

template <class Response>
class UnaryState final : public CallSink, public LiveCall {
 public:
  UnaryState(grpc::CallbackServerContext* context,
             grpc::ServerUnaryReactor* reactor,
             AccessReport report,
             Response* response)
      : context_(context), reactor_(reactor), response_(response), report_(report) {}

  void SetHandle(std::shared_ptr<CallHandle> handle) {
    {
      const std::lock_guard lock(mutex_);
      if (!finished_) {
        handle_ = std::move(handle);
        return;
      }
    }
    if (handle) handle->Cancel();
  }

  void OnChunk(v1::GenerateChunk chunk) override {
    const std::lock_guard lock(mutex_);
    if (!finished_) collector_.Add(std::move(chunk));
  }

  void OnDone(const v1::Usage& usage) override {
    if (!MarkFinished()) return;
    if constexpr (std::is_same_v<Response, v1::ChatResponse>) {
      *response_ = ToChatResponse(collector_.Take(usage));
    } else {
      *response_ = collector_.Take(usage);
    }
    report_.Send(absl::StatusCode::kOk);
    reactor_->Finish(grpc::Status::OK);
  }

  void OnError(const ApiError& error) override { End(error); }

  void End(const ApiError& error) override {
    if (!MarkFinished()) return;
    report_.Send(error.status);
    reactor_->Finish(FinishStatus(error, *context_));
    std::shared_ptr<CallHandle> handle;
    {
      const std::lock_guard lock(mutex_);
      handle.swap(handle_);
    }
    if (handle) handle->Cancel();
  }

 private:
  // True for the one who may finish the reactor, which lives until then.
  bool MarkFinished() {
    const std::lock_guard lock(mutex_);
    return !std::exchange(finished_, true);
  }

  grpc::CallbackServerContext* const context_;
  grpc::ServerUnaryReactor* const reactor_;
  Response* const response_;
  AccessReport report_;  // used by whoever may finish
  std::mutex mutex_;     // guards everything below
  std::shared_ptr<CallHandle> handle_;
  ChunkCollector collector_;
  bool finished_ = false;
};

template <class Response>
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  UnaryReactor(grpc::CallbackServerContext* context,
               AccessReport report,
               Response* response,
               std::shared_ptr<LiveCalls> live_calls)
      : state_(std::make_shared<UnaryState<Response>>(context, this, report, response)),
        live_calls_(std::move(live_calls)) {
    live_calls_->Add(state_);
  }

  const std::shared_ptr<UnaryState<Response>>& state() { return state_; }

  void OnCancel() override { state_->End(CancelledError()); }
  void OnDone() override {
    live_calls_->Remove(state_.get());
    delete this;
  }

 private:
  const std::shared_ptr<UnaryState<Response>> state_;
  const std::shared_ptr<LiveCalls> live_calls_;
};

// ---- Streams -----------------------------------------------------------------------------------

template <class Chunk>
class StreamState final : public CallSink, public LiveCall {
 public:
  StreamState(grpc::CallbackServerContext* context,
              grpc::ServerWriteReactor<Chunk>* reactor,
              AccessReport report)
      : context_(context), reactor_(reactor), report_(report) {}

  void SetHandle(std::shared_ptr<CallHandle> handle) {
    bool ended;
    {
      const std::lock_guard lock(mutex_);
      ended = ended_;
      if (!ended) handle_ = handle;
    }
    if (!ended) {
      ReportUnsentBytes();  // chunks may have come before
    } else if (handle) {
      handle->Cancel();
    }
  }

  void OnChunk(v1::GenerateChunk chunk) override {
    {
      const std::lock_guard lock(mutex_);
      if (ended_) return;
      chunk.clear_usage();
      EnqueueHeld();
      // A choice's last chunk may be the stream's last, which carries the usage: see what follows.
      if (chunk.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
        held_ = std::move(chunk);
      } else {
        Enqueue(std::move(chunk));
      }
    }
    Proceed();
    ReportUnsentBytes();
  }

  void OnDone(const v1::Usage& usage) override {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(ended_, true)) return;
      handle_.reset();
      if (!held_) held_.emplace();
      *held_->mutable_usage() = usage;
      EnqueueHeld();
    }
    Proceed();
  }

  void OnError(const ApiError& error) override { End(error); }

  void End(const ApiError& error) override {
    std::shared_ptr<CallHandle> handle;
    bool is_stuck;
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(ended_, true)) return;
      handle.swap(handle_);
      error_ = error;
      EnqueueHeld();
      is_stuck = writing_ && UnsentBytesLocked() > kStuckBytes;
      if (is_stuck || error.status == absl::StatusCode::kCancelled) ClearQueue();
    }
    if (is_stuck) context_->TryCancel();
    Proceed();
    if (handle) handle->Cancel();
  }

  void OnWriteDone(bool ok) {
    {
      const std::lock_guard lock(mutex_);
      writing_ = false;
      writing_bytes_ = 0;
      if (!ok) ClearQueue();
    }
    if (!ok) End(CancelledError());
    Proceed();
    ReportUnsentBytes();
  }

 private:
  void EnqueueHeld() {
    if (held_) Enqueue(std::move(*held_));
    held_.reset();
  }

  void Enqueue(v1::GenerateChunk chunk) {
    const auto bytes = static_cast<int64_t>(chunk.ByteSizeLong());
    queued_bytes_ += bytes;
    if (!queue_.empty() && last_bytes_ + bytes <= kMaxMergedBytes &&
        queue_.back().choice_index() == chunk.choice_index() &&
        queue_.back().finish_reason() == v1::FINISH_REASON_UNSPECIFIED) {
      last_bytes_ += bytes;
      return AppendChunk(queue_.back(), std::move(chunk));
    }
    last_bytes_ = bytes;
    queue_.push_back(std::move(chunk));
  }

  void ClearQueue() {
    queue_.clear();
    queued_bytes_ = 0;
  }

  int64_t UnsentBytesLocked() const { return queued_bytes_ + writing_bytes_; }

  // Writes the next message or finishes, if either is due. gRPC may answer on this very thread, so
  // it is called without the lock; what it is given belongs to whoever set writing_ or finished_.
  void Proceed() {
    bool finishes = false;
    {
      const std::lock_guard lock(mutex_);
      if (writing_ || finished_) return;
      if (!queue_.empty()) {
        writing_bytes_ = static_cast<int64_t>(queue_.front().ByteSizeLong());
        if constexpr (std::is_same_v<Chunk, v1::ChatChunk>) {
          message_ = ToChatChunk(std::move(queue_.front()));
        } else {
          message_ = std::move(queue_.front());
        }
        queue_.pop_front();
        queued_bytes_ = queue_.empty() ? 0 : std::max<int64_t>(0, queued_bytes_ - writing_bytes_);
        writing_ = true;
      } else if (ended_) {
        finishes = finished_ = true;
      } else {
        return;
      }
    }
    if (!finishes) return reactor_->StartWrite(&message_);
    report_.Send(error_ ? error_->status : absl::StatusCode::kOk);
    reactor_->Finish(error_ ? FinishStatus(*error_, *context_) : grpc::Status::OK);
  }

  // Reads the amount under the lock under which it reports it, so the last report is the newest.
  void ReportUnsentBytes() {
    std::shared_ptr<CallHandle> handle;
    const std::lock_guard report(report_mutex_);
    int64_t unsent;
    {
      const std::lock_guard lock(mutex_);
      unsent = UnsentBytesLocked();
      handle = handle_;
    }
    if (!handle || unsent / kReportStepBytes == reported_bytes_ / kReportStepBytes) return;
    reported_bytes_ = unsent;
    handle->SetUnsentBytes(unsent);
  }

  grpc::CallbackServerContext* const context_;
  grpc::ServerWriteReactor<Chunk>* const reactor_;  // lives until finished_
  AccessReport report_;                             // used by whoever sets finished_

  std::mutex mutex_;  // guards everything up to the next mutex, but see Proceed
  std::shared_ptr<CallHandle> handle_;
  std::optional<v1::GenerateChunk> held_;
  std::deque<v1::GenerateChunk> queue_;
  int64_t queued_bytes_ = 0;
  int64_t last_bytes_ = 0;  // of queue_.back()
  Chunk message_;           // being written
  int64_t writing_bytes_ = 0;
  bool writing_ = false;
  bool ended_ = false;  // nothing more comes from the core
  std::optional<ApiError> error_;
  bool finished_ = false;

  std::mutex report_mutex_;  // taken before mutex_; guards the one below
  int64_t reported_bytes_ = 0;
};

template <class Chunk>
class StreamReactor final : public grpc::ServerWriteReactor<Chunk> {
 public:
  StreamReactor(grpc::CallbackServerContext* context,
                AccessReport report,
                std::shared_ptr<LiveCalls> live_calls)
      : state_(std::make_shared<StreamState<Chunk>>(context, this, report)),
        live_calls_(std::move(live_calls)) {
    live_calls_->Add(state_);
  }

  const std::shared_ptr<StreamState<Chunk>>& state() { return state_; }

  void OnWriteDone(bool ok) override { state_->OnWriteDone(ok); }
  void OnCancel() override { state_->End(CancelledError()); }
  void OnDone() override {
    live_calls_->Remove(state_.get());
    delete this;
  }

 private:
  const std::shared_ptr<StreamState<Chunk>> state_;
  const std::shared_ptr<LiveCalls> live_calls_;
};

template <class Chunk>
class RefusingReactor final : public grpc::ServerWriteReactor<Chunk> {
 public:
  explicit RefusingReactor(grpc::Status status) { this->Finish(std::move(status)); }
  void OnDone() override { delete this; }
};

}  // namespace

v1::ChatChunk ToChatChunk(v1::GenerateChunk chunk) {
  v1::ChatChunk chat;
  chat.set_request_id(std::move(*chunk.mutable_request_id()));
  chat.set_model(std::move(*chunk.mutable_model()));
  chat.set_choice_index(chunk.choice_index());
  chat.set_content_delta(std::move(*chunk.mutable_text()));
  chat.mutable_token_ids()->Swap(chunk.mutable_token_ids());
  chat.mutable_logprobs()->Swap(chunk.mutable_logprobs());
  chat.set_finish_reason(chunk.finish_reason());
  chat.set_stop_reason(std::move(*chunk.mutable_stop_reason()));
  if (chunk.has_usage()) *chat.mutable_usage() = std::move(*chunk.mutable_usage());
  chat.mutable_prompt_token_ids()->Swap(chunk.mutable_prompt_token_ids());
  return chat;
}

v1::ChatResponse ToChatResponse(v1::GenerateResponse response) {
  v1::ChatResponse chat;
  chat.set_request_id(std::move(*response.mutable_request_id()));
  chat.set_model(std::move(*response.mutable_model()));
  for (v1::Choice& choice : *response.mutable_choices()) {
    v1::ChatChoice& chat_choice = *chat.add_choices();
    chat_choice.set_index(choice.index());
    chat_choice.mutable_message()->set_role("assistant");
    chat_choice.mutable_message()->set_content(std::move(*choice.mutable_text()));
    chat_choice.mutable_token_ids()->Swap(choice.mutable_token_ids());
    chat_choice.mutable_logprobs()->Swap(choice.mutable_logprobs());
    chat_choice.set_finish_reason(choice.finish_reason());
    chat_choice.set_stop_reason(std::move(*choice.mutable_stop_reason()));
  }
  *chat.mutable_usage() = std::move(*response.mutable_usage());
  chat.mutable_prompt_token_ids()->Swap(response.mutable_prompt_token_ids());
  chat.set_created_unix_seconds(response.created_unix_seconds());
  return chat;
}

template <class Response>
grpc::ServerUnaryReactor* StartUnaryCall(grpc::CallbackServerContext* context,
                                         Service* service,
                                         CallRequest call,
                                         AccessReport report,
                                         std::shared_ptr<LiveCalls> live_calls,
                                         Response* response) {
  auto* reactor = new UnaryReactor<Response>(context, report, response, std::move(live_calls));
  const auto state = reactor->state();  // the reactor may be gone before Start returns
  state->SetHandle(service->Start(std::move(call), state));
  return reactor;
}

template <class Chunk>
grpc::ServerWriteReactor<Chunk>* StartStreamCall(grpc::CallbackServerContext* context,
                                                 Service* service,
                                                 CallRequest call,
                                                 AccessReport report,
                                                 std::shared_ptr<LiveCalls> live_calls) {
  auto* reactor = new StreamReactor<Chunk>(context, report, std::move(live_calls));
  const auto state = reactor->state();
  state->SetHandle(service->Start(std::move(call), state));
  return reactor;
}

template <class Chunk>
grpc::ServerWriteReactor<Chunk>* RefuseStream(grpc::Status status) {
  return new RefusingReactor<Chunk>(std::move(status));
}

template grpc::ServerUnaryReactor* StartUnaryCall(grpc::CallbackServerContext*,
                                                  Service*,
                                                  CallRequest,
                                                  AccessReport,
                                                  std::shared_ptr<LiveCalls>,
                                                  v1::GenerateResponse*);
template grpc::ServerUnaryReactor* StartUnaryCall(grpc::CallbackServerContext*,
                                                  Service*,
                                                  CallRequest,
                                                  AccessReport,
                                                  std::shared_ptr<LiveCalls>,
                                                  v1::ChatResponse*);
template grpc::ServerWriteReactor<v1::GenerateChunk>* StartStreamCall<v1::GenerateChunk>(
    grpc::CallbackServerContext*, Service*, CallRequest, AccessReport, std::shared_ptr<LiveCalls>);
template grpc::ServerWriteReactor<v1::ChatChunk>* StartStreamCall<v1::ChatChunk>(
    grpc::CallbackServerContext*, Service*, CallRequest, AccessReport, std::shared_ptr<LiveCalls>);
template grpc::ServerWriteReactor<v1::GenerateChunk>* RefuseStream<v1::GenerateChunk>(grpc::Status);
template grpc::ServerWriteReactor<v1::ChatChunk>* RefuseStream<v1::ChatChunk>(grpc::Status);

}  // namespace paceline::router
