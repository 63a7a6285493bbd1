#include "tests/fakes/fake_service.h"

#include <algorithm>
#include <utility>

namespace paceline::router {

v1::GenerateChunk MakeChunk(const std::string& text,
                            v1::FinishReason finish,
                            int32_t choice_index) {
  v1::GenerateChunk chunk;
  chunk.set_request_id("fake");
  chunk.set_model("tiny");
  chunk.set_choice_index(choice_index);
  chunk.set_text(text);
  chunk.set_finish_reason(finish);
  return chunk;
}

v1::Usage MakeUsage(int32_t prompt_tokens, int32_t completion_tokens, int32_t cached_tokens) {
  v1::Usage usage;
  usage.set_prompt_tokens(prompt_tokens);
  usage.set_completion_tokens(completion_tokens);
  usage.set_total_tokens(prompt_tokens + completion_tokens);
  usage.set_cached_tokens(cached_tokens);
  return usage;
}

FakeCall::FakeCall(CallRequest request, std::shared_ptr<CallSink> sink)
    : request_(std::move(request)), sink_(std::move(sink)) {}

void FakeCall::Emit(v1::GenerateChunk chunk) {
  const std::lock_guard events(event_mutex_);
  std::shared_ptr<CallSink> sink;
  {
    const std::lock_guard lock(mutex_);
    sink = sink_;
  }
  if (sink) sink->OnChunk(std::move(chunk));
}

std::shared_ptr<CallSink> FakeCall::TakeSink() {
  const std::lock_guard lock(mutex_);
  return std::exchange(sink_, nullptr);
}

void FakeCall::Done(const v1::Usage& usage) {
  const std::lock_guard events(event_mutex_);
  if (auto sink = TakeSink()) sink->OnDone(usage);
}

void FakeCall::Fail(const ApiError& error) {
  const std::lock_guard events(event_mutex_);
  if (auto sink = TakeSink()) sink->OnError(error);
}

void FakeCall::Cancel() {
  {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
  }
  changed_.notify_all();
  // As the core does: the terminal event comes from another thread.
  std::shared_ptr<CallSink> sink = TakeSink();
  if (!sink) return;
  std::thread([sink = std::move(sink)] {
    sink->OnError(
        ApiError{.status = absl::StatusCode::kCancelled, .message = "The request was cancelled"});
  }).detach();
}

void FakeCall::SetUnsentBytes(int64_t bytes) {
  unsent_bytes_ = bytes;
  int64_t seen = max_unsent_bytes_;
  while (bytes > seen && !max_unsent_bytes_.compare_exchange_weak(seen, bytes)) {
  }
}

bool FakeCall::WaitUntilCancelled(std::chrono::milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return cancelled_.load(); });
}

bool FakeCall::finished() const {
  const std::lock_guard lock(mutex_);
  return sink_ == nullptr;
}

FakeService::FakeService()
    : script_([](const std::shared_ptr<FakeCall>& call) {
        call->Emit(MakeChunk("Hello"));
        call->Emit(MakeChunk(" world", v1::FINISH_REASON_STOP));
        call->Done();
      }) {}

FakeService::~FakeService() {
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(mutex_);
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void FakeService::SetScript(Script script) {
  const std::lock_guard lock(mutex_);
  script_ = std::move(script);
}

size_t FakeService::num_calls() const {
  const std::lock_guard lock(mutex_);
  return calls_.size();
}

std::shared_ptr<FakeCall> FakeService::call(size_t index) const {
  const std::lock_guard lock(mutex_);
  return index < calls_.size() ? calls_[index] : nullptr;
}

std::shared_ptr<FakeCall> FakeService::WaitForCall(size_t index,
                                                   std::chrono::milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  const bool started = changed_.wait_for(lock, timeout, [&] { return index < calls_.size(); });
  return started ? calls_[index] : nullptr;
}

void FakeService::RunInBackground(std::function<void()> function) {
  const std::lock_guard lock(mutex_);
  threads_.emplace_back(std::move(function));
}

std::shared_ptr<CallHandle> FakeService::Start(CallRequest request,
                                               std::shared_ptr<CallSink> sink) {
  auto call = std::make_shared<FakeCall>(std::move(request), std::move(sink));
  Script script;
  {
    const std::lock_guard lock(mutex_);
    calls_.push_back(call);
    script = script_;
  }
  changed_.notify_all();
  if (script) script(call);
  return call;
}

std::variant<TokenizeResult, ApiError> FakeService::Tokenize(const v1::TokenizeRequest& request) {
  if (request.text().empty() == request.messages().empty()) {
    return InvalidParam("text", "exactly one of text and messages is required");
  }
  TokenizeResult result{.max_model_len = 512};
  const std::string text =
      request.messages().empty() ? request.text() : request.messages(0).content();
  for (const char c : text) {
    result.token_ids.push_back(static_cast<unsigned char>(c) + 1);
    if (request.return_token_strs()) result.token_strs.emplace_back(1, c);
  }
  return result;
}

std::variant<std::string, ApiError> FakeService::Detokenize(const v1::DetokenizeRequest& request) {
  std::string text;
  for (const int64_t id : request.token_ids()) {
    if (id < 1 || id > 256)
      return InvalidParam("token_ids", "token_ids holds an id outside the vocabulary");
    text.push_back(static_cast<char>(id - 1));
  }
  return text;
}

std::vector<v1::ModelInfo> FakeService::ListModels() {
  std::vector<v1::ModelInfo> models(2);
  models[0].set_id("tiny");
  models[1].set_id("org/tiny-chat");
  for (v1::ModelInfo& model : models) {
    model.set_architecture("llama");
    model.set_max_model_len(512);
    model.set_created_unix_seconds(1'700'000'000);
  }
  return models;
}

}  // namespace paceline::router
