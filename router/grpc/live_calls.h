// The calls that a server is answering, so that it can end them in order. Any thread.
#ifndef PACELINE_ROUTER_GRPC_LIVE_CALLS_H_
#define PACELINE_ROUTER_GRPC_LIVE_CALLS_H_

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "router/core/api_error.h"

namespace paceline::router {

class LiveCall {
 public:
  virtual ~LiveCall() = default;
  // Ends the call with `error` unless it ended already.
  virtual void End(const ApiError& error) = 0;
};

class LiveCalls {
 public:
  void Add(const std::shared_ptr<LiveCall>& call) {
    const std::lock_guard lock(mutex_);
    calls_[call.get()] = call;
  }
  void Remove(const LiveCall* call) {
    const std::lock_guard lock(mutex_);
    calls_.erase(call);
    if (calls_.empty()) emptied_.notify_all();
  }
  // False when `timeout` passed before the last call ended.
  bool WaitUntilNone(std::chrono::nanoseconds timeout) {
    std::unique_lock lock(mutex_);
    return emptied_.wait_for(lock, timeout, [this] { return calls_.empty(); });
  }
  void EndAll(const ApiError& error) {
    std::vector<std::shared_ptr<LiveCall>> calls;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [key, weak] : calls_) {
        if (auto call = weak.lock()) calls.push_back(std::move(call));
      }
    }
    for (const auto& call : calls) call->End(error);
  }

 private:
  std::mutex mutex_;  // guards calls_
  std::condition_variable emptied_;
  std::unordered_map<const LiveCall*, std::weak_ptr<LiveCall>> calls_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_GRPC_LIVE_CALLS_H_
