// The inference engine of one rank: one thread that owns scheduler, KV cache and model runner and
// takes no lock inside a step. Owned by the process (worker service or offline command). Every
// public method may be called from any thread; results arrive at the sessions' sinks, on the engine
// thread.
#ifndef PACELINE_WORKER_ENGINE_ENGINE_H_
#define PACELINE_WORKER_ENGINE_ENGINE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "proto/support/clock.h"
#include "proto/support/span.h"
#include "worker/cache/kv_cache.h"
#include "worker/core/request.h"
#include "worker/engine/frame.h"
#include "worker/metrics/worker_metrics.h"
#include "worker/runner/model_runner.h"
#include "worker/sched/scheduler.h"
#include "worker/trace/step_trace.h"

namespace paceline::worker {

class Engine {
 public:
  struct Options {
    Scheduler::Options scheduler;
    std::string model_digest;        // root of the prefix cache's block hashes
    int64_t beat_interval_ms = 500;  // an idle or busy engine sends a frame at least so often
    StepTrace* trace = nullptr;      // may be null; else outlives the engine
    SpanSink* spans = nullptr;       // the same; gets those of requests whose router records them
  };

  // Starts the engine thread. `runner` has its model loaded. InvalidArgument names a scheduler
  // option that is out of range. `metrics` and `clock` must outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(const Options& options,
                                                        std::unique_ptr<ModelRunner> runner,
                                                        WorkerMetrics& metrics,
                                                        const Clock& clock);
  // Cancels what runs, ends the thread.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Joins a client; its first frame brings the whole prefix-cache index (kv_events.reset).
  // The engine keeps `sink` until Detach, after which it is called no more once Detach's command
  // has been taken by the engine thread.
  uint64_t Attach(std::shared_ptr<FrameSink> sink);
  // Cancels the session's requests and forgets it.
  void Detach(uint64_t session);

  // Queues `request` (request->session names the session). A refusal arrives as a result with
  // finish_reason kError and the reason.
  void Submit(std::shared_ptr<const Request> request);
  // Unknown ids are ignored: the request may have just ended.
  void Cancel(uint64_t session, std::string request_id);
  void Pause(uint64_t session, std::string request_id);
  void Resume(uint64_t session, std::string request_id);
  // Forgets all cached prefixes; what runs keeps its blocks.
  void FlushPrefixCache();
  // Tells all clients that no new requests are wanted; those that come run as usual.
  void BeginDrain() { Post(DrainCommand{}); }
  // Nothing ran or waited after the last step.
  bool IsIdle() const { return num_sequences_ == 0; }

  // How long ago the engine thread last finished a step, a layer or an idle beat. The measure of
  // readiness: it grows when the engine hangs, whatever other threads do.
  int64_t MsSinceProgress() const;

 private:
  Engine(const Options& options,
         std::unique_ptr<ModelRunner> runner,
         WorkerMetrics& metrics,
         const Clock& clock);

  struct AttachCommand {
    uint64_t session;
    std::shared_ptr<FrameSink> sink;
  };
  struct DetachCommand {
    uint64_t session;
  };
  struct SubmitCommand {
    std::shared_ptr<const Request> request;
  };
  enum class Verb { kCancel, kPause, kResume };
  struct RequestCommand {
    Verb verb;
    uint64_t session;
    std::string request_id;
  };
  struct FlushCommand {};
  struct DrainCommand {};
  using Command = std::variant<AttachCommand,
                               DetachCommand,
                               SubmitCommand,
                               RequestCommand,
                               FlushCommand,
                               DrainCommand>;

  struct Session {
    std::shared_ptr<FrameSink> sink;
    Frame frame;              // being filled for the current step
    bool needs_index = true;  // the next frame brings the whole prefix index
  };
  // Log-probabilities of a request's prompt, gathered chunk by chunk, sent with each choice's first
  // result.
  struct PromptScores {
    std::vector<TokenLogprobs> logprobs;
    int32_t choices_left = 0;
  };

  void Post(Command command);
  void Loop();
  // Takes what is in the inbox; when there is no work, first sleeps until something is or a beat or
  // a deadline is due. False: stop.
  bool TakeInbox();
  void ApplyTaken();
  void Apply(Command& command);
  void Submit(const std::shared_ptr<const Request>& request, int64_t now_ns);
  void Step();
  // Starts as many batches as may be under way, then ends and commits the oldest. False: there was
  // nothing to run.
  bool RunBatch(TraceSpan& step);
  void StartBatches();
  // One that follows the one under way without knowing its tokens.
  void StartAhead();
  // The device works while the last step's results are sent.
  void StartNext();
  void ReportChoices(int64_t now_ns);
  void ReportFinished(int64_t now_ns);
  SequenceResult& NewResult(Session& session, const Sequence& sequence);
  SequenceResult& ResultFor(Session& session, const Sequence& sequence);
  void AddPromptScores(const Sequence& sequence, SequenceResult& result);
  // A batch that was started.
  struct OpenStep {
    const Batch* batch = nullptr;
    int64_t start_ns = 0;
    int64_t planned_ns = 0;
  };
  void Start(const Batch& batch, int64_t start_ns);
  // It ran from `start_ns` to `ran_ns`.
  void PublishStep(const Batch& batch, int64_t start_ns, int64_t ran_ns);
  void DescribeStep(const Batch& batch, TraceSpan& step) const;
  void PublishLoad();
  void PublishRanks();
  void PublishFinished(const Finished& finished, int64_t now_ns);
  void RecordSpans(const Finished& finished, int64_t now_ns) const;
  EngineLoad LoadNow() const;
  // Sends the sessions' filled frames; with `beat`, one to every session.
  void SendFrames(bool beat);
  // The engine moves: also called between layers of a long step.
  void Progress();

  const Options options_;
  const Clock& clock_;
  WorkerMetrics& metrics_;
  TraceTrack* const track_;  // of the engine thread; null without a trace

  // Engine thread only.
  std::unique_ptr<ModelRunner> runner_;
  KvCache cache_;
  Scheduler scheduler_;
  std::deque<OpenStep> open_steps_;
  int64_t last_ran_ns_ = 0;  // when the last step was over
  StepOutcome outcome_;
  std::vector<Sampled> sampled_;
  std::vector<Finished> finished_;
  absl::flat_hash_map<uint64_t, Session> sessions_;
  absl::flat_hash_map<const Request*, PromptScores> prompt_scores_;
  uint64_t step_ = 0;
  int64_t last_beat_ns_ = 0;
  bool is_draining_ = false;
  Scheduler::Counters published_;  // what the metrics already have
  KvCache::Stats published_cache_;
  std::vector<RankWork> ranks_;
  std::vector<RankWork> published_ranks_;
  std::vector<int64_t> rank_beat_ns_;  // when its beats last changed

  std::atomic<int64_t> last_progress_ns_;
  std::atomic<int32_t> num_sequences_{0};
  std::atomic<uint64_t> next_session_{1};

  // std::mutex because the distribution's Abseil is not built for ThreadSanitizer.
  std::mutex mutex_;  // guards the three below
  std::condition_variable wake_;
  std::vector<Command> inbox_;
  bool stop_ = false;

  std::vector<Command> taken_;  // engine thread only: the inbox's other buffer
  std::thread thread_;          // last: starts when everything else is there
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_ENGINE_ENGINE_H_
