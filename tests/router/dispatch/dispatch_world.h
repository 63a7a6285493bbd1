// A dispatcher over fake workers in memory, on one thread and a fake clock: nothing happens but
// what the test makes happen.
#ifndef PACELINE_TESTS_ROUTER_DISPATCH_DISPATCH_WORLD_H_
#define PACELINE_TESTS_ROUTER_DISPATCH_DISPATCH_WORLD_H_

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "router/dispatch/dispatcher.h"
#include "tests/fakes/fake_worker.h"
#include "tests/router/dispatch/recording_sink.h"

namespace paceline::router {

// Holds text work back until the test lets it run.
class HeldExecutor final : public Executor {
 public:
  void Post(Task task) override {
    if (is_held) {
      tasks_.push_back(std::move(task));
    } else {
      std::move(task)();
    }
  }
  void Release() {
    is_held = false;
    while (!tasks_.empty()) {
      std::move(tasks_.front())();
      tasks_.pop_front();
    }
  }
  bool is_held = false;

 private:
  std::deque<Task> tasks_;
};

struct StartedCall {
  std::shared_ptr<RecordingSink> sink;
  std::shared_ptr<CallHandle> handle;
};

class DispatchTest : public testing::Test {
 protected:
  DispatchTest() : loop_(&clock_) {}
  ~DispatchTest() override {
    if (dispatcher_ == nullptr) return;
    dispatcher_->FailAll();  // calls that a test leaves behind
    loop_.Stop();
  }

  FakeWorker& AddWorker(const std::string& name, const std::string& model = "fake") {
    return AddWorker(name, FakeHello(name, model));
  }
  FakeWorker& AddWorker(const std::string& name, const v1::WorkerHello& hello) {
    auto& worker = workers_[name + ":1"];
    worker = std::make_unique<FakeWorker>(hello);
    return *worker;
  }
  void StartDispatcher() {
    std::map<std::string, FakeWorker*> links;
    for (auto& [address, worker] : workers_) {
      links[address] = worker.get();
      options_.fleet.workers.fixed.push_back(address);
    }
    dispatcher_ =
        std::make_unique<Dispatcher>(options_, &loop_, &text_, InMemoryLinks(links), &metrics_);
    dispatcher_->Start();
    loop_.RunReady();
  }

  static CallRequest Request(const std::string& text, int32_t max_tokens) {
    v1::GenerateRequest body;
    body.set_text(text);
    body.mutable_sampling()->set_max_tokens(max_tokens);
    body.mutable_sampling()->set_seed(7);
    CallRequest request;
    request.body = body;
    request.tenant = "default";
    return request;
  }
  static v1::GenerateRequest& Body(CallRequest& request) {
    return std::get<v1::GenerateRequest>(request.body);
  }
  static v1::SamplingParams& Sampling(CallRequest& request) {
    return *Body(request).mutable_sampling();
  }
  StartedCall StartCall(CallRequest request) {
    StartedCall call;
    call.sink = std::make_shared<RecordingSink>();
    call.handle = dispatcher_->Start(std::move(request), call.sink);
    loop_.RunReady();
    return call;
  }
  StartedCall StartCall(const std::string& text, int32_t max_tokens) {
    return StartCall(Request(text, max_tokens));
  }
  // Every worker makes `count` steps and its results are taken in.
  void Step(int count = 1) {
    for (int i = 0; i < count; ++i) {
      for (auto& [address, worker] : workers_) worker->Step();
      loop_.RunReady();
    }
  }
  void Pass(int64_t ms) {
    for (int64_t t = 0; t < ms; t += 20) {
      clock_.AdvanceMs(20);
      if (t % 200 == 0) {
        for (auto& [address, worker] : workers_) worker->Beat();
      }
      loop_.RunReady();
    }
  }
  // Nothing is left of any call, here or at a worker that lives.
  void ExpectIdle() {
    dispatcher_->BeginDrain();
    EXPECT_TRUE(dispatcher_->Drained());
    for (auto& [address, worker] : workers_) EXPECT_EQ(worker->running(), 0) << address;
    Pass(600);
    EXPECT_NE(metrics_.Text().find("paceline_router_queue_requests 0\n"), std::string::npos);
    for (const auto& info : dispatcher_->Replicas()) {
      EXPECT_EQ(info.outstanding_tokens(), 0) << info.id();
    }
  }

  FakeClock clock_;
  EventLoop loop_;
  HeldExecutor text_;
  RouterMetrics metrics_;
  DispatchOptions options_;
  std::map<std::string, std::unique_ptr<FakeWorker>> workers_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

}  // namespace paceline::router

#endif  // PACELINE_TESTS_ROUTER_DISPATCH_DISPATCH_WORLD_H_
