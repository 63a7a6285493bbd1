#include "router/http/inference_exchange.h"

#include <ctime>
#include <utility>

#include "router/http/api_handler.h"
#include "router/openai/errors.h"

namespace paceline::router {
namespace {

// Changes smaller than this are not worth telling the core.
constexpr int64_t kReportStepBytes = 16 << 10;

}  // namespace

class InferenceExchange::Sink final : public CallSink {
 public:
  Sink(std::shared_ptr<InferenceExchange> parent, int32_t prompt)
      : parent_(std::move(parent)), prompt_(prompt) {}
  void OnChunk(v1::GenerateChunk chunk) override { parent_->OnChunk(prompt_, std::move(chunk)); }
  void OnDone(const v1::Usage& usage) override { parent_->OnDone(prompt_, usage); }
  void OnError(const ApiError& error) override { parent_->OnError(error); }

 private:
  const std::shared_ptr<InferenceExchange> parent_;
  const int32_t prompt_;
};

void InferenceExchange::Run(Service* service,
                            InferenceRequest request,
                            const CallContext& context,
                            std::string request_id,
                            std::shared_ptr<Exchange> exchange) {
  auto self = std::make_shared<InferenceExchange>(request, std::move(request_id), exchange);
  exchange->SetObserver(self);
  self->Start(service, std::move(request), context);
}

InferenceExchange::InferenceExchange(const InferenceRequest& request,
                                     std::string request_id,
                                     std::shared_ptr<Exchange> exchange)
    : shape_(request.shape),
      header_{.request_id = std::move(request_id),
              .created_unix_seconds = static_cast<int64_t>(std::time(nullptr))},
      stream_(request.stream),
      exchange_(std::move(exchange)),
      usage_(request.calls.size()),
      writer_(request.shape, header_),
      collectors_(request.stream ? 0 : request.calls.size()) {}

void InferenceExchange::Start(Service* service,
                              InferenceRequest request,
                              const CallContext& context) {
  for (size_t i = 0; i < request.calls.size(); ++i) {
    {
      const std::lock_guard lock(mutex_);
      if (ended_) return;
    }
    CallRequest call{.body = std::move(request.calls[i]),
                     .tenant = context.tenant,
                     .traceparent = context.traceparent,
                     .deadline_ns = context.deadline_ns,
                     .is_stream = stream_};
    auto sink = std::make_shared<Sink>(shared_from_this(), static_cast<int32_t>(i));
    const std::shared_ptr<CallHandle> handle = service->Start(std::move(call), std::move(sink));
    bool ended;
    {
      const std::lock_guard lock(mutex_);
      ended = ended_;
      if (!ended) handles_.push_back(handle);
    }
    if (!ended) {
      ReportUnsentBytes(/*to_new_call=*/true);
    } else if (handle) {
      handle->Cancel();  // it ended while the call started; a call that is over ignores this
    }
  }
}

void InferenceExchange::OnChunk(int32_t prompt, v1::GenerateChunk chunk) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    if (!stream_) return collectors_[prompt].Add(std::move(chunk));
    StartStream();
    std::string events;
    writer_.Chunk(prompt, chunk, &events);
    exchange_->Write(events);
  }
  ReportUnsentBytes();
}

void InferenceExchange::OnDone(int32_t prompt, const v1::Usage& usage) {
  const std::lock_guard lock(mutex_);
  if (ended_) return;
  usage_[prompt] = usage;
  if (++num_done_ < shape_.num_prompts) return;
  ended_ = true;
  handles_.clear();
  SendAnswer();
}

// The first error is everybody's: what is still running for the request ends as well.
void InferenceExchange::OnError(const ApiError& error) {
  {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    ended_ = true;
    if (stream_started_) {
      std::string events;
      StreamWriter::Error(error, &events);
      exchange_->Write(events);
      exchange_->FinishFailed(HttpStatusOf(error));
    } else {
      exchange_->Respond(ErrorResponse(error));
    }
  }
  CancelAll();
}

void InferenceExchange::OnDisconnect() {
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  CancelAll();
}

void InferenceExchange::OnProgress() { ReportUnsentBytes(); }

void InferenceExchange::OnServerStop() {
  OnError(ApiError{.status = absl::StatusCode::kUnavailable,
                   .message = "The server is shutting down",
                   .code = "draining"});
}

// The status line waits for the first event, so that an early error still gets its status.
void InferenceExchange::StartStream() {
  if (std::exchange(stream_started_, true)) return;
  exchange_->StartStream(HttpResponse{.content_type = "text/event-stream; charset=utf-8",
                                      .headers = {{"Cache-Control", "no-cache"}}});
}

void InferenceExchange::SendAnswer() {
  if (stream_) {
    StartStream();
    std::string events;
    writer_.Done(SumOf(usage_), &events);
    exchange_->Write(events);
    exchange_->Finish();
    return;
  }
  std::vector<v1::GenerateResponse> prompts;
  prompts.reserve(collectors_.size());
  for (size_t i = 0; i < collectors_.size(); ++i) prompts.push_back(collectors_[i].Take(usage_[i]));
  exchange_->Respond(HttpResponse{.body = ResponseJson(shape_, header_, prompts)});
}

void InferenceExchange::CancelAll() {
  std::vector<std::shared_ptr<CallHandle>> handles;
  {
    const std::lock_guard lock(mutex_);
    handles.swap(handles_);
  }
  for (const auto& handle : handles) {
    if (handle) handle->Cancel();
  }
}

// Reads the amount under the lock under which it reports it, so the last report is the newest.
void InferenceExchange::ReportUnsentBytes(bool to_new_call) {
  std::vector<std::shared_ptr<CallHandle>> handles;
  const std::lock_guard report(report_mutex_);
  if (to_new_call) reported_bytes_ = 0;  // events may have come before their call's handle
  const int64_t unsent = exchange_->UnsentBytes();
  if (unsent / kReportStepBytes == reported_bytes_ / kReportStepBytes) return;
  {
    const std::lock_guard lock(mutex_);
    handles = handles_;
  }
  reported_bytes_ = unsent;
  for (const auto& handle : handles) {
    if (handle) handle->SetUnsentBytes(unsent);
  }
}

}  // namespace paceline::router
