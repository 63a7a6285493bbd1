// Remembers the events of a call and checks that they come in a lawful order. Thread-safe.
#ifndef PACELINE_TESTS_ROUTER_DISPATCH_RECORDING_SINK_H_
#define PACELINE_TESTS_ROUTER_DISPATCH_RECORDING_SINK_H_

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "router/core/call.h"

namespace paceline::router {

class RecordingSink final : public CallSink {
 public:
  void OnChunk(v1::GenerateChunk chunk) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_FALSE(IsOver()) << "a chunk after the terminal event";
    EXPECT_FALSE(finished_.count(chunk.choice_index())) << "a chunk after the choice's last one";
    texts_[chunk.choice_index()] += chunk.text();
    if (chunk.finish_reason() != v1::FINISH_REASON_UNSPECIFIED) {
      finished_[chunk.choice_index()] = chunk.finish_reason();
    }
    chunks_.push_back(std::move(chunk));
    changed_.notify_all();
  }
  void OnDone(const v1::Usage& usage) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_FALSE(IsOver()) << "two terminal events";
    usage_ = usage;
    changed_.notify_all();
  }
  void OnError(const ApiError& error) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    EXPECT_FALSE(IsOver()) << "two terminal events";
    error_ = error;
    changed_.notify_all();
  }

  bool done() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return usage_.has_value();
  }
  bool over() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return IsOver();
  }
  // "" while there is none.
  std::string error_code() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return error_ ? error_->code : "";
  }
  ApiError error() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return error_.value_or(ApiError{});
  }
  v1::Usage usage() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return usage_.value_or(v1::Usage());
  }
  std::string text(int32_t choice = 0) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = texts_.find(choice);
    return found == texts_.end() ? "" : found->second;
  }
  v1::FinishReason finish(int32_t choice = 0) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = finished_.find(choice);
    return found == finished_.end() ? v1::FINISH_REASON_UNSPECIFIED : found->second;
  }
  std::vector<v1::GenerateChunk> chunks() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return chunks_;
  }
  // Waits for the terminal event; false after `seconds`.
  bool Wait(int seconds = 60) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(seconds), [this] { return IsOver(); });
  }
  // Waits until choice 0 has at least `count` bytes of text.
  bool WaitForText(size_t count, int seconds = 60) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(
        lock, std::chrono::seconds(seconds), [&] { return texts_[0].size() >= count || IsOver(); });
  }

 private:
  bool IsOver() const { return usage_.has_value() || error_.has_value(); }

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable changed_;
  std::vector<v1::GenerateChunk> chunks_;
  std::map<int32_t, std::string> texts_;
  std::map<int32_t, v1::FinishReason> finished_;
  std::optional<v1::Usage> usage_;
  std::optional<ApiError> error_;
};

}  // namespace paceline::router

#endif  // PACELINE_TESTS_ROUTER_DISPATCH_RECORDING_SINK_H_
