// An HTTP server whose answers the test scripts. Owned by the test; any thread.
#ifndef PACELINE_TESTS_FAKES_HTTP_STUB_H_
#define PACELINE_TESTS_FAKES_HTTP_STUB_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "router/http/http_server.h"
#include "router/http/message.h"

namespace paceline {

class HttpStub final : public router::HttpHandler {
 public:
  // Answers request number `index`; nullopt: not at all, and its connection stays open.
  using AnswerFn = std::function<std::optional<router::HttpResponse>(
      const router::HttpRequest& request, size_t index)>;

  explicit HttpStub(AnswerFn answer) : answer_(std::move(answer)), server_(Options(), this) {
    started_ = server_.Start().ok();
  }
  ~HttpStub() override { server_.Stop(std::chrono::milliseconds(0)); }

  int port() const { return started_ ? server_.port() : 0; }
  std::vector<router::HttpRequest> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  // False: it took more than ten seconds.
  bool WaitForRequests(size_t count) const {
    std::unique_lock lock(mutex_);
    return arrived_.wait_for(
        lock, std::chrono::seconds(60), [&] { return requests_.size() >= count; });
  }

  std::optional<router::HttpResponse> Admit(router::HttpRequest& request) override {
    request.request_id = "-";
    return std::nullopt;
  }
  void Handle(router::HttpRequest request, std::shared_ptr<router::Exchange> exchange) override {
    size_t index = 0;
    {
      const std::lock_guard lock(mutex_);
      index = requests_.size();
      requests_.push_back(request);
      if (std::optional<router::HttpResponse> response = answer_(request, index)) {
        exchange->Respond(*std::move(response));
      } else {
        open_.push_back(std::move(exchange));
      }
    }
    arrived_.notify_all();
  }
  router::HttpResponse Refuse(int status) override { return {.status = status}; }

 private:
  static router::HttpServer::Options Options() { return {}; }

  const AnswerFn answer_;
  mutable std::mutex mutex_;  // guards the next two
  mutable std::condition_variable arrived_;
  std::vector<router::HttpRequest> requests_;
  std::vector<std::shared_ptr<router::Exchange>> open_;
  bool started_ = false;
  router::HttpServer server_;
};

}  // namespace paceline

#endif  // PACELINE_TESTS_FAKES_HTTP_STUB_H_
