// A router::Service with scripted answers, for tests of what stands in front of it. Thread-safe.
#ifndef PACELINE_TESTS_FAKES_FAKE_SERVICE_H_
#define PACELINE_TESTS_FAKES_FAKE_SERVICE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "router/core/call.h"

namespace paceline::router {

v1::GenerateChunk MakeChunk(const std::string& text,
                            v1::FinishReason finish = v1::FINISH_REASON_UNSPECIFIED,
                            int32_t choice_index = 0);
v1::Usage MakeUsage(int32_t prompt_tokens, int32_t completion_tokens, int32_t cached_tokens = 0);

// Looks until `condition` holds; false when it does not within a minute.
template <class Condition>
bool WaitFor(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

// One call as the core would run it. Events after the terminal one are dropped.
class FakeCall final : public CallHandle {
 public:
  FakeCall(CallRequest request, std::shared_ptr<CallSink> sink);

  const CallRequest& request() const { return request_; }
  const v1::GenerateRequest& generate() const {
    return std::get<v1::GenerateRequest>(request_.body);
  }
  const v1::ChatRequest& chat() const { return std::get<v1::ChatRequest>(request_.body); }

  void Emit(v1::GenerateChunk chunk);
  void Done(const v1::Usage& usage = MakeUsage(3, 2));
  void Fail(const ApiError& error);

  void Cancel() override;
  void SetUnsentBytes(int64_t bytes) override;

  bool cancelled() const { return cancelled_; }
  int64_t unsent_bytes() const { return unsent_bytes_; }
  int64_t max_unsent_bytes() const { return max_unsent_bytes_; }
  bool WaitUntilCancelled(std::chrono::milliseconds timeout = std::chrono::seconds(60)) const;
  bool finished() const;

 private:
  std::shared_ptr<CallSink> TakeSink();

  const CallRequest request_;
  mutable std::mutex event_mutex_;  // one event at a time
  mutable std::mutex mutex_;        // guards sink_
  mutable std::condition_variable changed_;
  std::shared_ptr<CallSink> sink_;
  std::atomic<bool> cancelled_{false};
  std::atomic<int64_t> unsent_bytes_{0};
  std::atomic<int64_t> max_unsent_bytes_{0};
};

class FakeService final : public Service {
 public:
  using Script = std::function<void(std::shared_ptr<FakeCall>)>;

  // Without a script every call answers "Hello world" in two chunks at once.
  FakeService();
  ~FakeService() override;

  // Runs in Start, on the caller's thread. May be null: calls then wait for the test.
  void SetScript(Script script);
  void SetReady(bool ready) { ready_ = ready; }

  size_t num_calls() const;
  std::shared_ptr<FakeCall> call(size_t index) const;
  // The call with this index, waiting for it to start; null after `timeout`.
  std::shared_ptr<FakeCall> WaitForCall(
      size_t index, std::chrono::milliseconds timeout = std::chrono::seconds(60)) const;
  // Joined when the service ends; for scripts that go on in the background.
  void RunInBackground(std::function<void()> function);

  std::shared_ptr<CallHandle> Start(CallRequest request, std::shared_ptr<CallSink> sink) override;
  // Byte values plus one.
  std::variant<TokenizeResult, ApiError> Tokenize(const v1::TokenizeRequest& request) override;
  std::variant<std::string, ApiError> Detokenize(const v1::DetokenizeRequest& request) override;
  // "tiny" and "org/tiny-chat".
  std::vector<v1::ModelInfo> ListModels() override;
  bool Ready() override { return ready_; }

 private:
  mutable std::mutex mutex_;  // guards the three below
  mutable std::condition_variable changed_;
  Script script_;
  std::vector<std::shared_ptr<FakeCall>> calls_;
  std::vector<std::thread> threads_;
  std::atomic<bool> ready_{true};
};

}  // namespace paceline::router

#endif  // PACELINE_TESTS_FAKES_FAKE_SERVICE_H_
