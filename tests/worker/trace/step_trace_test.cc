#include "worker/trace/step_trace.h"

#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/engine_harness.h"

namespace paceline::worker {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// The complete events of a trace; fails the test where it is not a JSON array of objects.
std::vector<json> Spans(const std::string& path) {
  const json all = json::parse(ReadFile(path), nullptr, /*allow_exceptions=*/false);
  EXPECT_TRUE(all.is_array()) << path;
  std::vector<json> spans;
  for (const json& event : all) {
    if (event.at("ph") == "X") spans.push_back(event);
  }
  return spans;
}

// The thousandths that the file writes, as whole nanoseconds.
int64_t Nanoseconds(const json& microseconds) {
  return std::llround(microseconds.get<double>() * 1000);
}

class StepTraceTest : public testing::Test {
 protected:
  StepTraceTest() : path_(testing::TempDir() + "/step_trace_test_" + TestName() + ".json") {}
  ~StepTraceTest() override { std::filesystem::remove(path_); }

  static std::string TestName() {
    return testing::UnitTest::GetInstance()->current_test_info()->name();
  }

  std::unique_ptr<StepTrace> OpenTrace(StepTrace::Options options) {
    options.path = path_;
    auto trace = StepTrace::Open(options, clock_);
    EXPECT_TRUE(trace.ok()) << trace.status();
    return *std::move(trace);
  }

  // A step of one span of `duration_ms`.
  void AddStep(StepTrace& trace, int64_t number, int64_t duration_ms = 1) {
    {
      const TraceSpan span(trace.track(0), "step", {{"step", number}});
      clock_.AdvanceMs(duration_ms);
    }
    trace.EndStep(/*keep=*/true);
  }

  // Returns once the file is an array of `count` events.
  void WaitForEvents(size_t count) {
    for (;;) {
      const json all = json::parse(ReadFile(path_), nullptr, /*allow_exceptions=*/false);
      if (all.is_array() && all.size() == count) return;
      std::this_thread::yield();
    }
  }

  const std::string path_;
  FakeClock clock_;
};

TEST_F(StepTraceTest, WritesSpansWithTheirTimesAndArguments) {
  auto trace = OpenTrace({.process_name = "a \"name\"", .num_threads = 2});
  const int64_t start = clock_.NowNs();
  {
    TraceSpan outer(trace->track(0), "step");
    outer.AddArgs({{"rows", 3}, {"step", -1}});
    clock_.AdvanceMs(2);
    const TraceSpan inner(trace->track(1), "part");
    clock_.AdvanceMs(5);
  }
  trace->EndStep(/*keep=*/true);
  trace.reset();

  const json all = json::parse(ReadFile(path_));
  ASSERT_EQ(all.size(), 5U);
  EXPECT_EQ(all[0].at("args").at("name"), "a \"name\"");
  EXPECT_EQ(all[1].at("args").at("name"), "engine");
  EXPECT_EQ(all[2].at("args").at("name"), "compute 1");
  EXPECT_EQ(all[3].at("name"), "step");
  EXPECT_EQ(all[3].at("tid"), 0);
  EXPECT_EQ(all[3].at("pid"), getpid());
  EXPECT_EQ(Nanoseconds(all[3].at("ts")), start);
  EXPECT_EQ(Nanoseconds(all[3].at("dur")), 7'000'000);
  EXPECT_EQ(all[3].at("args"), json({{"rows", 3}, {"step", -1}}));
  EXPECT_EQ(all[4].at("name"), "part");
  EXPECT_EQ(all[4].at("tid"), 1);
  EXPECT_EQ(Nanoseconds(all[4].at("dur")), 5'000'000);
  EXPECT_FALSE(all[4].contains("args"));
}

TEST_F(StepTraceTest, TheFileIsWholeWhileItGrows) {
  auto trace = OpenTrace({});
  EXPECT_TRUE(Spans(path_).empty());
  for (size_t i = 1; i <= 20; ++i) {
    AddStep(*trace, static_cast<int64_t>(i));
    WaitForEvents(2 + i);  // after two names; the trace stays open
  }
}

TEST_F(StepTraceTest, ForgetsAStepThatIsNotKept) {
  auto trace = OpenTrace({});
  { const TraceSpan span(trace->track(0), "empty"); }
  trace->EndStep(/*keep=*/false);
  AddStep(*trace, 1);
  trace.reset();
  ASSERT_EQ(Spans(path_).size(), 1U);
  EXPECT_EQ(Spans(path_)[0].at("name"), "step");
}

TEST_F(StepTraceTest, DropsWholeStepsThatTheWriterHasNoRoomForAndSaysSo) {
  auto trace = OpenTrace({.max_pending_events = 2});
  for (int i = 0; i < 3; ++i) const TraceSpan span(trace->track(0), "too many");
  trace->EndStep(/*keep=*/true);
  AddStep(*trace, 2);
  trace.reset();
  const json all = json::parse(ReadFile(path_));
  ASSERT_EQ(all.size(), 4U);
  EXPECT_EQ(all[2].at("name"), "step");
  EXPECT_EQ(all[3].at("name"), "dropped");
  EXPECT_EQ(all[3].at("args").at("steps"), 1);
}

TEST_F(StepTraceTest, EndsWhereTheFileIsFull) {
  auto trace = OpenTrace({.max_file_bytes = 1000});
  for (int i = 0; i < 100; ++i) AddStep(*trace, i);
  trace.reset();
  EXPECT_LE(std::filesystem::file_size(path_), 1000U);
  EXPECT_LT(Spans(path_).size(), 100U);
}

TEST_F(StepTraceTest, AFileThatCannotBeWrittenIsNamed) {
  for (const std::string path : {"/nonexistent/trace.json", "/proc/version"}) {
    const auto trace = StepTrace::Open({.path = path}, clock_);
    EXPECT_EQ(trace.status().code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(std::string(trace.status().message()), HasSubstr("--step-trace " + path + ": "));
  }
  // No space for the first bytes.
  const auto full = StepTrace::Open({.path = "/dev/full"}, clock_);
  EXPECT_EQ(full.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(full.status().message()), HasSubstr("No space left"));
}

TEST_F(StepTraceTest, ASpanWithoutATrackDoesNothing) {
  TraceSpan span(nullptr, "nothing", {{"a", 1}});
  span.AddArgs({{"b", 2}});
}

// Fails unless every two spans of a thread lie one in the other or apart.
void ExpectNested(const std::vector<json>& spans) {
  struct Range {
    int64_t start;
    int64_t end;
    std::string name;
  };
  std::map<int, std::vector<Range>> threads;
  for (const json& span : spans) {
    const int64_t start = Nanoseconds(span.at("ts"));
    threads[span.at("tid")].push_back(
        {start, start + Nanoseconds(span.at("dur")), span.at("name").get<std::string>()});
  }
  for (const auto& [thread, ranges] : threads) {
    std::vector<Range> open;
    for (const Range& range : ranges) {  // in the order of their beginnings
      while (!open.empty() && open.back().end <= range.start) open.pop_back();
      if (open.empty()) {
        open.push_back(range);
        continue;
      }
      EXPECT_GE(range.start, open.back().start) << range.name;
      EXPECT_LE(range.end, open.back().end) << range.name << " in " << open.back().name;
      open.push_back(range);
    }
  }
}

struct EngineRun {
  std::vector<json> spans;
  double steps = 0;
  double prefill_tokens = 0;
  double decode_tokens = 0;
};

EngineRun RunEngine(const std::string& path, int32_t num_threads, int32_t prompt, int requests) {
  auto trace =
      StepTrace::Open({.path = path, .num_threads = num_threads}, SteadyClock::Get()).value();
  EngineRun run;
  {
    EngineHarness engine({.num_threads = num_threads,
                          .num_blocks = 256,
                          .max_num_seqs = 16,
                          .max_num_batched_tokens = 128,
                          .prefix_caching = false,
                          .trace = trace.get()});
    for (int i = 0; i < requests; ++i) {
      engine.Submit(
          EngineHarness::MakeRequest(std::to_string(i), EngineHarness::Prompt(prompt, i), 10));
    }
    for (int i = 0; i < requests; ++i) engine.Wait(std::to_string(i));
    engine.WaitUntilIdle();
    run.steps = engine.metrics().steps->Value();
    run.prefill_tokens = engine.metrics().prefill_tokens->Value();
    run.decode_tokens = engine.metrics().decode_tokens->Value();
  }
  trace.reset();
  run.spans = Spans(path);
  return run;
}

int64_t Sum(const std::vector<json>& spans, const std::string& name, const std::string& arg) {
  int64_t sum = 0;
  for (const json& span : spans) {
    if (span.at("name") == name) sum += span.at("args").at(arg).get<int64_t>();
  }
  return sum;
}

int64_t Count(const std::vector<json>& spans, const std::string& name) {
  int64_t count = 0;
  for (const json& span : spans) count += span.at("name") == name ? 1 : 0;
  return count;
}

TEST_F(StepTraceTest, AnEnginesStepsAreThoseThatItsMetricsCount) {
  const EngineRun run = RunEngine(path_, /*num_threads=*/1, /*prompt=*/200, /*requests=*/3);
  EXPECT_GT(run.steps, 10);
  EXPECT_EQ(Count(run.spans, "step"), run.steps);
  EXPECT_EQ(Sum(run.spans, "step", "prefill_tokens"), run.prefill_tokens);
  EXPECT_EQ(Sum(run.spans, "step", "decode_tokens"), run.decode_tokens);
  EXPECT_EQ(Sum(run.spans, "forward", "rows"), run.prefill_tokens + run.decode_tokens);
  EXPECT_EQ(Sum(run.spans, "sampling", "rows"), 30);  // three requests, ten tokens each
  EXPECT_EQ(Sum(run.spans, "logits", "rows"), 30);
}

TEST_F(StepTraceTest, EveryStepHasItsPhasesAndTheForwardPassItsLayers) {
  const EngineRun run = RunEngine(path_, 1, 40, 2);
  for (const char* phase : {"schedule", "prepare", "forward", "commit", "frames"}) {
    EXPECT_EQ(Count(run.spans, phase), run.steps) << phase;
  }
  for (const char* part : {"qkv", "attention", "output", "mlp"}) {
    EXPECT_EQ(Count(run.spans, part), 2 * run.steps) << part;  // the tiny model has two layers
  }
  ExpectNested(run.spans);
  // From schedule to frames, phases lie inside their step.
  std::optional<json> step;
  for (const json& span : run.spans) {
    if (span.at("name") == "step") step = span;
    if (span.at("name") == "step" || span.at("name") == "inbox") continue;
    ASSERT_TRUE(step.has_value());
    EXPECT_LE(Nanoseconds(span.at("ts")) + Nanoseconds(span.at("dur")),
              Nanoseconds(step->at("ts")) + Nanoseconds(step->at("dur")))
        << span.at("name");
  }
}

TEST_F(StepTraceTest, PartsOfTheRowsAreOnTheThreadThatRanThem) {
  const EngineRun run = RunEngine(path_, 2, 250, 4);
  ExpectNested(run.spans);
  std::set<int> threads;
  int64_t rows = 0;
  for (const json& span : run.spans) {
    threads.insert(span.at("tid").get<int>());
    if (span.at("name") == "mlp" && span.at("args").at("layer") == 1) {
      rows += span.at("args").at("rows").get<int64_t>();
    }
    EXPECT_TRUE(span.at("tid") == 0 || span.at("name") != "step");
  }
  EXPECT_EQ(rows, run.prefill_tokens + run.decode_tokens);
  EXPECT_LE(threads.size(), 2U);
}

}  // namespace
}  // namespace paceline::worker
