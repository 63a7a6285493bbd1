// A whole router core with its threads, against fake workers: in memory (what ThreadSanitizer can
// see whole) and over gRPC sockets.
#include "router/dispatch/router_core.h"

#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "router/fleet/grpc_worker_link.h"
#include "tests/fakes/fake_worker.h"
#include "tests/router/dispatch/recording_sink.h"

namespace paceline::router {
namespace {

enum class Transport { kInMemory, kGrpc };

class RouterCoreTest : public testing::TestWithParam<Transport> {
 protected:
  FakeWorker& AddWorker(const std::string& name, const std::string& model = "fake") {
    workers_.push_back(std::make_unique<FakeWorker>(FakeHello(name, model)));
    if (GetParam() == Transport::kGrpc) {
      servers_.push_back(std::make_unique<FakeWorkerServer>(workers_.back().get()));
      addresses_.push_back(servers_.back()->address());
    } else {
      addresses_.push_back(name + ":1");
    }
    return *workers_.back();
  }
  void StartCore(size_t models = 1) {
    RouterCoreOptions options;
    options.dispatch.fleet.workers = *ParseWorkerAddresses(absl::StrJoin(addresses_, ","));
    options.dispatch.fleet.router_id = "test";
    std::map<std::string, FakeWorker*> in_memory;
    for (size_t i = 0; i < workers_.size(); ++i) in_memory[addresses_[i]] = workers_[i].get();
    core_ = std::make_unique<RouterCore>(
        options,
        GetParam() == Transport::kGrpc ? GrpcWorkerLinkFactory() : InMemoryLinks(in_memory));
    Eventually([&] {
      int32_t ready = 0;
      for (const auto& model : core_->service().ListModels()) ready += model.replicas_ready();
      return ready == static_cast<int32_t>(workers_.size());
    });
    EXPECT_EQ(core_->service().ListModels().size(), models);
  }
  ~RouterCoreTest() override {
    core_.reset();
    servers_.clear();
  }

  // Waits for what other threads do; a limit so that a failure ends.
  template <typename Condition>
  static void Eventually(Condition condition) {
    const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!condition()) {
      ASSERT_LT(std::chrono::steady_clock::now(), limit) << "it never came true";
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  std::pair<std::shared_ptr<RecordingSink>, std::shared_ptr<CallHandle>> StartCall(
      const std::string& text, int32_t max_tokens, int32_t n = 1, const std::string& model = "") {
    v1::GenerateRequest body;
    body.set_text(text);
    body.set_model(model);
    body.mutable_sampling()->set_max_tokens(max_tokens);
    body.mutable_sampling()->set_seed(7);
    body.mutable_sampling()->set_n(n);
    CallRequest request;
    request.body = body;
    request.tenant = "default";
    auto sink = std::make_shared<RecordingSink>();
    auto handle = core_->service().Start(std::move(request), sink);
    return {sink, handle};
  }

  std::vector<std::unique_ptr<FakeWorker>> workers_;
  std::vector<std::unique_ptr<FakeWorkerServer>> servers_;
  std::vector<std::string> addresses_;
  std::unique_ptr<RouterCore> core_;
};

TEST_P(RouterCoreTest, AnswersManyCallsAtOnce) {
  AddWorker("a").StepEvery(500);
  AddWorker("b").StepEvery(500);
  StartCore();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 64; ++i) {
    sinks.push_back(StartCall(absl::StrCat("prompt ", i), 40, 1 + i % 2).first);
  }
  for (int i = 0; i < 64; ++i) {
    ASSERT_TRUE(sinks[i]->Wait());
    ASSERT_TRUE(sinks[i]->done()) << sinks[i]->error_code();
    for (int32_t choice = 0; choice < 1 + i % 2; ++choice) {
      EXPECT_EQ(sinks[i]->text(choice), FakeAnswer(absl::StrCat("prompt ", i), 7, choice, 40));
    }
  }
  EXPECT_GT(workers_[0]->submits().size(), 0U);
  EXPECT_GT(workers_[1]->submits().size(), 0U);
}

TEST_P(RouterCoreTest, AWorkersDeathInMidStreamLeavesNoGap) {
  AddWorker("a").StepEvery(1000);
  AddWorker("b").StepEvery(1000);
  StartCore();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 16; ++i) sinks.push_back(StartCall(absl::StrCat("prompt ", i), 100).first);
  for (const auto& sink : sinks) ASSERT_TRUE(sink->WaitForText(10));
  workers_[0]->Kill();
  for (int i = 0; i < 16; ++i) {
    ASSERT_TRUE(sinks[i]->Wait());
    ASSERT_TRUE(sinks[i]->done()) << sinks[i]->error_code();
    EXPECT_EQ(sinks[i]->text(), FakeAnswer(absl::StrCat("prompt ", i), 7, 0, 100));
  }
  EXPECT_TRUE(absl::StrContains(core_->metrics().Text(), "paceline_router_failovers_total"));
}

TEST_P(RouterCoreTest, ADamagedFrameBreaksTheLinkAndLeavesNoGap) {
  if (GetParam() != Transport::kGrpc) GTEST_SKIP() << "only gRPC has bytes to damage";
  AddWorker("a");
  StartCore();
  workers_[0]->StepEvery(500);
  const auto [sink, handle] = StartCall("hello", 400);
  for (size_t chunks : {5, 200}) {
    Eventually([&, sink = sink] { return sink->chunks().size() > chunks; });
    const uint64_t sessions = workers_[0]->sessions_so_far();
    servers_[0]->DamageNext();
    Eventually([&] { return workers_[0]->sessions_so_far() > sessions; });
  }
  Eventually([sink = sink] { return sink->over(); });
  ASSERT_TRUE(sink->done()) << sink->error_code();
  EXPECT_EQ(sink->text(), FakeAnswer("hello", 7, 0, 400));
}

TEST_P(RouterCoreTest, ADeadWorkerIsAttachedAgainWithItsNewEpoch) {
  FakeWorker& worker = AddWorker("a");
  worker.StepEvery(1000);
  StartCore();
  worker.Kill();
  Eventually([&] { return !core_->service().Ready(); });
  worker.Restart();
  Eventually([&] { return core_->service().Ready(); });
  Eventually([&] {
    const auto replicas = core_->dispatcher().Replicas();
    return replicas.size() == 1 && replicas[0].epoch() == 2 && replicas[0].state() == "ready";
  });
  auto [sink, handle] = StartCall("hello", 5);
  ASSERT_TRUE(sink->Wait());
  EXPECT_TRUE(sink->done());
}

TEST_P(RouterCoreTest, CancelReachesTheWorker) {
  FakeWorker& worker = AddWorker("a");
  worker.StepEvery(1000);
  StartCore();
  auto [sink, handle] = StartCall("hello", 2000);
  ASSERT_TRUE(sink->WaitForText(5));
  handle->Cancel();
  ASSERT_TRUE(sink->Wait());
  EXPECT_EQ(sink->error_code(), "cancelled");
  Eventually([&] { return worker.running() == 0; });
}

TEST_P(RouterCoreTest, ServesTwoModels) {
  AddWorker("a", "one").StepEvery(1000);
  AddWorker("b", "two").StepEvery(1000);
  StartCore(2);
  auto one = StartCall("hello", 5, 1, "one").first;
  auto two = StartCall("hello", 5, 1, "two").first;
  ASSERT_TRUE(one->Wait() && two->Wait());
  EXPECT_TRUE(one->done() && two->done());
  EXPECT_EQ(workers_[0]->submits().size(), 1U);
  EXPECT_EQ(workers_[1]->submits().size(), 1U);
}

TEST_P(RouterCoreTest, CallsStartedAndCancelledFromManyThreadsAllEnd) {
  AddWorker("a").StepEvery(500);
  AddWorker("b").StepEvery(500);
  StartCore();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 25; ++i) {
        auto [sink, handle] = StartCall(absl::StrCat(t, " ", i), 20);
        handle->SetUnsentBytes(i % 5 == 0 ? 1 << 20 : 0);
        if (i % 3 == 0) handle->Cancel();
        handle->SetUnsentBytes(0);
        EXPECT_TRUE(sink->Wait());
        const std::string answer = FakeAnswer(absl::StrCat(t, " ", i), 7, 0, 20);
        EXPECT_EQ(answer.substr(0, sink->text().size()), sink->text());
        EXPECT_TRUE(i % 3 == 0 || sink->text() == answer);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  core_->dispatcher().BeginDrain();
  EXPECT_TRUE(core_->dispatcher().Drained());
  Eventually([&] { return workers_[0]->running() + workers_[1]->running() == 0; });
}

TEST_P(RouterCoreTest, StoppingEndsWhatRunsWithAnError) {
  AddWorker("a").StepEvery(1000);
  StartCore();
  auto [sink, handle] = StartCall("hello", 2000);
  ASSERT_TRUE(sink->WaitForText(3));
  core_->Stop();
  EXPECT_EQ(sink->error_code(), "draining");
  handle->Cancel();  // a handle may outlive the core's loop
  EXPECT_EQ(StartCall("hello", 5).first->error_code(), "draining");
}

TEST_P(RouterCoreTest, MayStopWhileItsReplicasComeUp) {
  AddWorker("a");
  for (int i = 0; i < 50; ++i) {
    RouterCoreOptions options;
    options.dispatch.fleet.workers = *ParseWorkerAddresses(addresses_[0]);
    RouterCore core(options,
                    GetParam() == Transport::kGrpc
                        ? GrpcWorkerLinkFactory()
                        : InMemoryLinks({{addresses_[0], workers_[0].get()}}));
    // From nothing at all to a tokenizer that is being made.
    std::this_thread::sleep_for(std::chrono::microseconds(i * 20));
  }
}

TEST_P(RouterCoreTest, TextThreadsRunUntilTheCoreGoes) {
  AddWorker("a");
  StartCore();
  core_->Stop();
  std::promise<void> ran;
  core_->text_threads().Post([&] { ran.set_value(); });
  ran.get_future().wait();
}

INSTANTIATE_TEST_SUITE_P(Transports,
                         RouterCoreTest,
                         testing::Values(Transport::kInMemory, Transport::kGrpc),
                         [](const auto& info) {
                           return info.param == Transport::kGrpc ? "Grpc" : "InMemory";
                         });

}  // namespace
}  // namespace paceline::router
