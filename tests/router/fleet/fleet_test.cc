#include "router/fleet/fleet.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/fake_worker.h"

namespace paceline::router {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class Recorder : public FleetListener {
 public:
  void OnReplicaUp(const Replica& replica) override {
    events.push_back("up " + replica.hello.replica_id());
  }
  void OnReplicaDown(const Replica& replica, bool is_lost, const absl::Status& why) override {
    events.push_back((is_lost ? "lost " : "stalled ") + replica.hello.replica_id());
    last_why = why;
  }
  void OnAccepted(const Replica& replica, const v1::Accepted& accepted) override {
    events.push_back("accepted " + accepted.request_id());
  }
  void OnStepResult(const Replica& replica, const v1::StepResult& step) override {
    steps += step.results_size();
  }
  void OnLoad(const Replica& replica) override { ++loads; }

  std::vector<std::string> events;
  absl::Status last_why;
  int steps = 0;
  int loads = 0;
};

class FleetTest : public testing::Test {
 protected:
  FleetTest() : loop_(&clock_) {}

  FakeWorker& AddWorker(const std::string& address) {
    auto& worker = workers_[address];
    worker = std::make_unique<FakeWorker>(FakeHello(address));
    return *worker;
  }
  void Start(const std::string& addresses, Fleet::ResolveFn resolve = nullptr) {
    FleetOptions options;
    options.workers = *ParseWorkerAddresses(addresses);
    options.router_id = "router";
    std::map<std::string, FakeWorker*> links;
    for (auto& [address, worker] : workers_) links[address] = worker.get();
    fleet_ = std::make_unique<Fleet>(
        options, &loop_, InMemoryLinks(links), &recorder_, std::move(resolve));
    fleet_->Start();
    loop_.RunReady();
  }
  // Time passes; workers beat unless told not to.
  void Pass(int64_t ms, bool beats = true) {
    for (int64_t t = 0; t < ms; t += 20) {
      clock_.AdvanceMs(20);
      if (beats && t % 200 == 0) {
        for (auto& [address, worker] : workers_) worker->Beat();
      }
      loop_.RunReady();
    }
  }
  ReplicaState State(int32_t key) { return fleet_->Find(key)->state; }
  bool Has(const std::string& event) {
    return std::find(recorder_.events.begin(), recorder_.events.end(), event) !=
           recorder_.events.end();
  }

  FakeClock clock_;
  EventLoop loop_;
  Recorder recorder_;
  std::map<std::string, std::unique_ptr<FakeWorker>> workers_;
  std::unique_ptr<Fleet> fleet_;
};

TEST_F(FleetTest, AttachesAndFetchesTheTokenizerOnce) {
  AddWorker("a:1");
  AddWorker("b:1");
  Start("a:1,b:1");
  EXPECT_THAT(recorder_.events, ElementsAre("up a:1", "up b:1"));
  EXPECT_EQ(fleet_->Snapshot("fake").replicas.size(), 2U);
  EXPECT_TRUE(fleet_->Snapshot("other").replicas.empty());
  EXPECT_NE(fleet_->Tokenizer(FakeTokenizer().digest()), nullptr);
}

TEST_F(FleetTest, StaysAttachedWhileFramesComeAndBeatsWithinAQuarterOfTheLease) {
  FakeWorker& worker = AddWorker("a:1");
  Start("a:1");
  Pass(10'000);
  EXPECT_EQ(State(0), ReplicaState::kReady);
  EXPECT_GE(worker.heartbeats(), 10'000 / 500);
  EXPECT_LE(worker.heartbeats(), 10'000 / 400);
}

TEST_F(FleetTest, SilenceForTheLeaseLosesTheReplica) {
  AddWorker("a:1").SetHung(true);
  workers_["a:1"]->SetHung(false);
  Start("a:1");
  workers_["a:1"]->SetHung(true);
  Pass(1'980);
  EXPECT_EQ(State(0), ReplicaState::kReady);
  Pass(60);
  EXPECT_TRUE(Has("lost a:1"));
  EXPECT_EQ(recorder_.last_why.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(fleet_->Snapshot("fake").replicas.empty());
}

// Keeps its callback reachable after it was destroyed, as a frame that is already under way would.
class LeakyLink : public WorkerLink {
 public:
  explicit LeakyLink(std::vector<EventFn>* events) : events_(events) {}
  void Open(EventFn on_event) override { events_->push_back(std::move(on_event)); }
  void Send(v1::RouterMessage message) override {}
  void GetTokenizer(const std::string& digest, TokenizerFn done) override { done(FakeTokenizer()); }

 private:
  std::vector<EventFn>* const events_;
};

TEST_F(FleetTest, FramesOfAnAttachmentThatIsOverAreDropped) {
  std::vector<WorkerLink::EventFn> events;
  FleetOptions options;
  options.workers = *ParseWorkerAddresses("a:1");
  Fleet fleet(
      options,
      &loop_,
      [&](const std::string&) { return std::make_unique<LeakyLink>(&events); },
      &recorder_);
  fleet.Start();
  v1::WorkerMessage hello;
  *hello.mutable_hello() = FakeHello("r");
  v1::WorkerMessage step;
  step.mutable_step()->add_results()->set_request_id("x");
  events[0](hello);
  events[0](step);
  loop_.RunReady();
  EXPECT_EQ(recorder_.steps, 1);
  Pass(2'100);  // silent for the lease
  EXPECT_TRUE(Has("lost r"));
  events[0](step);
  loop_.RunReady();
  EXPECT_EQ(recorder_.steps, 1);
  clock_.AdvanceMs(300);  // attaches anew
  loop_.RunReady();
  ASSERT_EQ(events.size(), 2U);
  hello.mutable_hello()->set_epoch(2);
  events[1](hello);
  events[0](step);
  events[0](LinkClosed{absl::UnavailableError("late")});
  loop_.RunReady();
  EXPECT_EQ(recorder_.steps, 1);
  EXPECT_EQ(fleet.Find(0)->state, ReplicaState::kReady);
  events[1](step);
  loop_.RunReady();
  EXPECT_EQ(recorder_.steps, 2);
}

TEST_F(FleetTest, ARouterThatWasHeldUpItselfDoesNotTakeItForAWorkersSilence) {
  FakeWorker& worker = AddWorker("a:1");
  Start("a:1");
  clock_.AdvanceMs(5'000);  // the loop did not run for so long
  worker.Beat();
  loop_.RunReady();
  EXPECT_EQ(State(0), ReplicaState::kReady);
}

TEST_F(FleetTest, TimeInWhichTheRouterDidNotRunIsNoSilence) {
  AddWorker("a:1");
  Start("a:1");
  clock_.AdvanceMs(5'000);
  loop_.RunReady();  // what the worker said meanwhile has not been read yet
  EXPECT_EQ(State(0), ReplicaState::kReady);
  Pass(1'900, /*beats=*/false);
  EXPECT_EQ(State(0), ReplicaState::kReady);
  Pass(160, /*beats=*/false);
  EXPECT_TRUE(Has("lost a:1"));
}

TEST_F(FleetTest, ARouterThatRunsLateAllTheTimeNoticesSilenceInTime) {
  AddWorker("a:1");
  Start("a:1");
  int turns = 0;  // each is late by 80 ms
  for (; !Has("lost a:1") && turns < 1'000; ++turns) {
    clock_.AdvanceMs(100);
    loop_.RunReady();
  }
  EXPECT_NEAR(turns, 2'000 / 100, 2);
}

TEST_F(FleetTest, ReconnectsWithBackOffThatGrowsAndIsReset) {
  FakeWorker& worker = AddWorker("a:1");
  worker.Kill();
  Start("a:1");
  std::vector<int64_t> attempts;
  uint64_t seen = fleet_->Find(0)->attachment;
  for (int64_t t = 0; t < 20'000; t += 20) {
    Pass(20);
    if (fleet_->Find(0)->attachment >= seen + 2) {  // one for the try, one for the fence
      seen = fleet_->Find(0)->attachment;
      attempts.push_back(t);
    }
  }
  ASSERT_GE(attempts.size(), 6U);
  for (size_t i = 1; i < attempts.size(); ++i) {
    EXPECT_LE(attempts[i] - attempts[i - 1], 5'040);
  }
  EXPECT_GE(attempts.back() - attempts[attempts.size() - 2], 4'900);
  EXPECT_THAT(recorder_.events, IsEmpty());
  worker.Restart();
  Pass(5'100);
  EXPECT_TRUE(Has("up a:1"));
  worker.Kill();
  loop_.RunReady();
  worker.Restart();
  Pass(260);
  EXPECT_EQ(State(0), ReplicaState::kReady);
}

TEST_F(FleetTest, AnOlderEpochIsAGhost) {
  FakeWorker& worker = AddWorker("a:1");
  worker.set_epoch(7);
  Start("a:1");
  worker.Kill();
  loop_.RunReady();
  worker.Restart();
  worker.set_epoch(6);
  Pass(3'000);
  EXPECT_NE(State(0), ReplicaState::kReady);
  worker.set_epoch(7);  // the same process again is fine
  Pass(6'000);
  EXPECT_EQ(State(0), ReplicaState::kReady);
}

TEST_F(FleetTest, AWorkerThatSaysNothingIsGivenUp) {
  AddWorker("a:1").SetHung(true);
  Start("a:1");
  Pass(4'900);
  EXPECT_EQ(State(0), ReplicaState::kConnecting);
  Pass(200);
  EXPECT_EQ(State(0), ReplicaState::kLost);
  EXPECT_THAT(recorder_.events, IsEmpty());
}

TEST_F(FleetTest, AReplicaThatBeatsButDoesNotStepIsStalledUntilItSteps) {
  FakeWorker& worker = AddWorker("a:1");
  Start("a:1");
  v1::RouterMessage message;
  message.mutable_submit()->set_request_id("x");
  message.mutable_submit()->set_n(1);
  message.mutable_submit()->mutable_sampling()->set_max_tokens(100);
  fleet_->Send(0, std::move(message));
  Pass(31'000);
  EXPECT_TRUE(Has("stalled a:1"));
  EXPECT_FALSE(fleet_->Snapshot("fake").replicas[0].is_ready);
  worker.Step();
  loop_.RunReady();
  EXPECT_EQ(State(0), ReplicaState::kReady);
}

TEST_F(FleetTest, AnIdleReplicaNeverStalls) {
  AddWorker("a:1");
  Start("a:1");
  Pass(60'000);
  EXPECT_THAT(recorder_.events, ElementsAre("up a:1"));
}

TEST_F(FleetTest, LosingAReplicaForgetsItsPrefixes) {
  FakeWorker& worker = AddWorker("a:1");
  Start("a:1");
  v1::KvEvents events;
  events.set_stored(std::string(32, 'x'));
  worker.SendKvEvents(events);
  loop_.RunReady();
  EXPECT_EQ(fleet_->Find(0)->prefixes.size(), 1U);  // twice the same hash
  worker.Kill();
  loop_.RunReady();
  EXPECT_TRUE(fleet_->Find(0)->prefixes.empty());
}

TEST_F(FleetTest, FollowsAName) {
  AddWorker("1.1.1.1:9");
  AddWorker("2.2.2.2:9");
  std::mutex mutex;
  std::vector<std::string> answer = {"1.1.1.1:9"};
  Start("dns:///workers:9", [&](const std::string& name, const std::string& port) {
    const std::lock_guard<std::mutex> lock(mutex);
    EXPECT_EQ(name + ":" + port, "workers:9");
    return answer;
  });
  // Look-ups run on a thread of their own, so their effect is waited for in real time.
  const auto wait_for = [&](const std::string& event) {
    while (!Has(event)) {
      std::this_thread::yield();
      Pass(20);
    }
  };
  wait_for("up 1.1.1.1:9");
  EXPECT_THAT(recorder_.events, ElementsAre("up 1.1.1.1:9"));
  {
    const std::lock_guard<std::mutex> lock(mutex);
    answer = {"2.2.2.2:9"};
  }
  wait_for("up 2.2.2.2:9");
  EXPECT_THAT(recorder_.events, ElementsAre("up 1.1.1.1:9", "up 2.2.2.2:9"));
  EXPECT_EQ(fleet_->replicas().size(), 2U);  // the first still serves
  workers_["1.1.1.1:9"]->Kill();
  Pass(100);
  EXPECT_EQ(fleet_->replicas().size(), 1U);
}

TEST_F(FleetTest, AttachesToTheAddressesThatItIsTold) {
  AddWorker("a:1");
  AddWorker("b:1");
  Start("kubernetes:///workers:1");
  EXPECT_TRUE(fleet_->replicas().empty());
  fleet_->SetAddresses({"b:1", "a:1"});
  Pass(100);
  EXPECT_THAT(recorder_.events, testing::UnorderedElementsAre("up a:1", "up b:1"));
  fleet_->SetAddresses({"b:1"});
  Pass(100);
  EXPECT_EQ(fleet_->replicas().size(), 2U);  // it serves until its link ends
  workers_["a:1"]->Kill();
  Pass(100);
  EXPECT_EQ(fleet_->replicas().size(), 1U);
  fleet_->SetAddresses({"a:1", "b:1"});
  workers_["a:1"]->Restart();
  Pass(1'000);
  EXPECT_EQ(fleet_->replicas().size(), 2U);
}

TEST_F(FleetTest, WorkersThatAreNoLongerNamedLeaveWhenTheyHaveNothingToDo) {
  AddWorker("a:1");
  AddWorker("b:1");
  AddWorker("c:1");
  Start("a:1,b:1");
  fleet_->AddFootprint(0, {.sequences = 1});
  fleet_->SetWorkers(*ParseWorkerAddresses("c:1"));
  Pass(100);
  EXPECT_EQ(State(0), ReplicaState::kDraining) << "it has a sequence";
  EXPECT_EQ(fleet_->Find(1), nullptr) << "it had none";
  EXPECT_TRUE(Has("up c:1"));
  EXPECT_FALSE(Has("lost a:1"));
  fleet_->SubtractFootprint(0, {.sequences = 1});
  Pass(100);
  EXPECT_EQ(fleet_->Find(0), nullptr);
  EXPECT_EQ(fleet_->replicas().size(), 1U);
}

TEST_F(FleetTest, AWorkerThatIsNamedAgainStays) {
  AddWorker("a:1");
  AddWorker("b:1");
  Start("a:1,b:1");
  fleet_->AddFootprint(0, {.sequences = 1});
  fleet_->SetWorkers(*ParseWorkerAddresses("b:1"));
  fleet_->SetWorkers(*ParseWorkerAddresses("b:1,a:1"));
  Pass(100);
  EXPECT_EQ(State(0), ReplicaState::kReady);
  EXPECT_EQ(fleet_->replicas().size(), 2U);
}

TEST_F(FleetTest, ANameTakesOverFromAListWithoutAGap) {
  AddWorker("a:1");
  AddWorker("b:1");
  Start("a:1", [](const std::string&, const std::string&) {
    return std::vector<std::string>{"a:1", "b:1"};
  });
  fleet_->SetWorkers(*ParseWorkerAddresses("dns:///name:1"));
  while (fleet_->replicas().size() < 2) Pass(20);
  Pass(100);
  EXPECT_EQ(State(0), ReplicaState::kReady);
  EXPECT_FALSE(Has("lost a:1"));
  EXPECT_TRUE(Has("up b:1"));
}

TEST_F(FleetTest, AnAddressThatTheNewNameHasNotLeaves) {
  AddWorker("a:1");
  AddWorker("b:1");
  Start("a:1",
        [](const std::string&, const std::string&) { return std::vector<std::string>{"b:1"}; });
  fleet_->SetWorkers(*ParseWorkerAddresses("dns:///name:1"));
  while (fleet_->Find(0) != nullptr) Pass(20);
  Pass(100);
  EXPECT_TRUE(Has("up b:1"));
}

TEST_F(FleetTest, FootprintsAddUpToNothing) {
  AddWorker("a:1");
  Start("a:1");
  const Footprint footprint{.uncached_tokens = 5, .blocks = 2, .sequences = 1};
  fleet_->AddFootprint(0, footprint);
  EXPECT_EQ(fleet_->Snapshot("fake").replicas[0].load, footprint);
  fleet_->SubtractFootprint(0, footprint);
  EXPECT_EQ(fleet_->Snapshot("fake").replicas[0].load, Footprint{});
}

class DrainTest : public FleetTest {
 protected:
  DrainTest() {
    AddWorker("a:1");
    AddWorker("b:1");
    Start("a:1,b:1");
  }
};

TEST_F(DrainTest, ADrainedReplicaStaysAttachedAndTakesNoRequests) {
  ASSERT_TRUE(fleet_->Drain("a:1", true).ok());
  EXPECT_EQ(State(0), ReplicaState::kDraining);
  EXPECT_TRUE(Has("stalled a:1"));  // no new requests, not lost
  ASSERT_EQ(fleet_->Snapshot("fake").replicas.size(), 1U);
  EXPECT_EQ(fleet_->Snapshot("fake").replicas[0].id, "b:1");
  v1::SequenceResult result;
  workers_["a:1"]->SendResult(result);
  Pass(60'000);
  EXPECT_EQ(recorder_.steps, 1);
  EXPECT_EQ(State(0), ReplicaState::kDraining);
  EXPECT_EQ(fleet_->Describe()[0].state(), "draining");
}

TEST_F(DrainTest, AWorkerThatStopsTakesNoRequestsUntilItIsAnotherOne) {
  workers_["a:1"]->BeginDrain();
  workers_["a:1"]->Beat();
  loop_.RunReady();
  EXPECT_EQ(State(0), ReplicaState::kDraining);
  EXPECT_TRUE(Has("stalled a:1"));
  workers_["a:1"]->Leave();
  loop_.RunReady();
  EXPECT_TRUE(Has("lost a:1"));
  EXPECT_EQ(recorder_.last_why.code(), absl::StatusCode::kCancelled);
  workers_["a:1"]->Restart();
  Pass(1'000);
  EXPECT_EQ(State(0), ReplicaState::kReady);
}

TEST_F(DrainTest, DrainingCanBeTakenBack) {
  ASSERT_TRUE(fleet_->Drain("a:1", true).ok());
  recorder_.events.clear();
  ASSERT_TRUE(fleet_->Drain("a:1", false).ok());
  ASSERT_TRUE(fleet_->Drain("a:1", false).ok());
  EXPECT_EQ(State(0), ReplicaState::kReady);
  EXPECT_THAT(recorder_.events, ElementsAre("up a:1"));
}

TEST_F(DrainTest, ABrokenLinkDoesNotEndIt) {
  ASSERT_TRUE(fleet_->Drain("a:1", true).ok());
  workers_["a:1"]->Kill();
  loop_.RunReady();
  ASSERT_EQ(State(0), ReplicaState::kLost);
  workers_["a:1"]->Restart();
  workers_["a:1"]->set_epoch(1);  // the same process
  Pass(1'000);
  EXPECT_EQ(State(0), ReplicaState::kDraining);
}

TEST_F(DrainTest, ANewIncarnationEndsIt) {
  ASSERT_TRUE(fleet_->Drain("a:1", true).ok());
  workers_["a:1"]->Kill();
  loop_.RunReady();
  workers_["a:1"]->Restart();
  Pass(1'000);
  EXPECT_EQ(State(0), ReplicaState::kReady);
}

TEST_F(DrainTest, NeedsOneAttachedReplica) {
  EXPECT_EQ(fleet_->Drain("nobody", true).code(), absl::StatusCode::kNotFound);
  workers_["a:1"]->Kill();
  loop_.RunReady();
  EXPECT_EQ(fleet_->Drain("a:1", true).code(), absl::StatusCode::kNotFound);
}

TEST_F(FleetTest, TwoReplicasOfOneIdAreDrainedByTheirAddresses) {
  for (const char* address : {"a:1", "b:1"}) {
    workers_[address] = std::make_unique<FakeWorker>(FakeHello("same"));
  }
  Start("a:1,b:1");
  EXPECT_EQ(fleet_->Drain("same", true).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(fleet_->Drain("b:1", true).ok());
  EXPECT_EQ(State(0), ReplicaState::kReady);
  EXPECT_EQ(State(1), ReplicaState::kDraining);
}

}  // namespace
}  // namespace paceline::router
