#include "worker/engine/engine.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "proto/support/log.h"
#include "proto/support/log_format.h"
#include "proto/support/status_macros.h"
#include "proto/support/trace.h"

namespace paceline::worker {
namespace {

KvCache::Options CacheOptions(const Engine::Options& options, int32_t num_blocks) {
  return {.num_blocks = num_blocks,
          .block_size = kernels::kKvBlockSize,
          .prefix_caching = options.scheduler.prefix_caching,
          .model_digest = options.model_digest};
}

Scheduler::Options SchedulerOptions(const Engine::Options& options, const ModelRunner& runner) {
  Scheduler::Options scheduler = options.scheduler;
  scheduler.max_open_batches = runner.depth();
  scheduler.runs_ahead = runner.returns_early();
  return scheduler;
}

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const Options& options,
                                                       std::unique_ptr<ModelRunner> runner,
                                                       WorkerMetrics& metrics,
                                                       const Clock& clock) {
  {
    const KvCache cache(CacheOptions(options, runner->num_blocks()));
    RETURN_IF_ERROR(Scheduler::Validate(options.scheduler, cache));
  }
  return std::unique_ptr<Engine>(new Engine(options, std::move(runner), metrics, clock));
}

Engine::Engine(const Options& options,
               std::unique_ptr<ModelRunner> runner,
               WorkerMetrics& metrics,
               const Clock& clock)
    : options_(options),
      clock_(clock),
      metrics_(metrics),
      track_(options.trace == nullptr ? nullptr : options.trace->track(0)),
      runner_(std::move(runner)),
      cache_(CacheOptions(options, runner_->num_blocks())),
      scheduler_(SchedulerOptions(options, *runner_), &cache_),
      last_progress_ns_(clock.NowNs()) {
  metrics_.weight_bytes->Set(static_cast<double>(runner_->weight_bytes()));
  metrics_.kv_cache_bytes->Set(static_cast<double>(runner_->kv_cache_bytes()));
  PublishLoad();
  thread_ = std::thread([this] { Loop(); });
  pthread_setname_np(thread_.native_handle(), "engine");
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

uint64_t Engine::Attach(std::shared_ptr<FrameSink> sink) {
  const uint64_t session = next_session_.fetch_add(1);
  Post(AttachCommand{session, std::move(sink)});
  return session;
}

void Engine::Detach(uint64_t session) { Post(DetachCommand{session}); }

void Engine::Submit(std::shared_ptr<const Request> request) {
  Post(SubmitCommand{std::move(request)});
}

void Engine::Cancel(uint64_t session, std::string request_id) {
  Post(RequestCommand{Verb::kCancel, session, std::move(request_id)});
}

void Engine::Pause(uint64_t session, std::string request_id) {
  Post(RequestCommand{Verb::kPause, session, std::move(request_id)});
}

void Engine::Resume(uint64_t session, std::string request_id) {
  Post(RequestCommand{Verb::kResume, session, std::move(request_id)});
}

void Engine::FlushPrefixCache() { Post(FlushCommand{}); }

int64_t Engine::MsSinceProgress() const {
  return (clock_.NowNs() - last_progress_ns_.load(std::memory_order_relaxed)) / 1'000'000;
}

void Engine::Post(Command command) {
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(command));
  }
  wake_.notify_one();
}

void Engine::Loop() {
  while (TakeInbox()) {
    Step();
    Progress();
  }
  // What is under way reads sequences, which go before the runner does.
  if (runner_->returns_early() && !open_steps_.empty()) runner_->Collect(outcome_);
}

bool Engine::TakeInbox() {
  taken_.clear();
  {
    std::unique_lock lock(mutex_);
    if (!scheduler_.has_runnable() && open_steps_.empty()) {
      const int64_t beat_due = last_beat_ns_ + options_.beat_interval_ms * 1'000'000;
      const int64_t due = std::min(beat_due, scheduler_.next_deadline_ns());
      const int64_t wait_ns = std::max<int64_t>(0, due - clock_.NowNs());
      wake_.wait_for(
          lock, std::chrono::nanoseconds(wait_ns), [this] { return stop_ || !inbox_.empty(); });
    }
    if (stop_) return false;
    std::swap(inbox_, taken_);
  }
  ApplyTaken();
  return true;
}

void Engine::ApplyTaken() {
  if (taken_.empty()) return;
  const TraceSpan span(track_, "inbox", {{"commands", static_cast<int64_t>(taken_.size())}});
  for (Command& command : taken_) Apply(command);
  taken_.clear();
}

void Engine::Apply(Command& command) {
  if (auto* attach = std::get_if<AttachCommand>(&command)) {
    sessions_[attach->session].sink = std::move(attach->sink);
    metrics_.sessions->Set(static_cast<double>(sessions_.size()));
    last_beat_ns_ = 0;  // greet it at once
  } else if (auto* detach = std::get_if<DetachCommand>(&command)) {
    scheduler_.CancelSession(detach->session);
    sessions_.erase(detach->session);
    metrics_.sessions->Set(static_cast<double>(sessions_.size()));
  } else if (auto* submit = std::get_if<SubmitCommand>(&command)) {
    Submit(submit->request, clock_.NowNs());
  } else if (auto* verb = std::get_if<RequestCommand>(&command)) {
    switch (verb->verb) {
      case Verb::kCancel:
        scheduler_.Cancel(verb->session, verb->request_id);
        break;
      case Verb::kPause:
        scheduler_.Pause(verb->session, verb->request_id);
        break;
      case Verb::kResume:
        scheduler_.Resume(verb->session, verb->request_id);
        break;
    }
  } else if (std::holds_alternative<DrainCommand>(command)) {
    is_draining_ = true;
    last_beat_ns_ = 0;  // say so at once
  } else {
    cache_.Flush();
  }
}

void Engine::Submit(const std::shared_ptr<const Request>& request, int64_t now_ns) {
  const auto session = sessions_.find(request->session);
  if (session == sessions_.end()) return;  // its router has left
  if (absl::Status status = scheduler_.Add(request, now_ns); !status.ok()) {
    const bool late = absl::IsDeadlineExceeded(status);
    if (!late) {
      const LogRequest about(request->id, request->traceparent);
      spdlog::warn("request {} is refused: {}", request->id, std::string(status.message()));
    }
    for (int32_t i = 0; i < request->n; ++i) {
      session->second.frame.results.push_back(
          {.request_id = request->id,
           .attempt = request->attempt,
           .choice_index = request->first_choice_index + i,
           .finish_reason = late ? FinishReason::kDeadline : FinishReason::kError,
           .error = late ? absl::OkStatus() : status});
    }
    return;
  }
  if (request->sampling.prompt_logprobs >= 0) {
    PromptScores& scores = prompt_scores_[request.get()];
    scores.logprobs.emplace_back();  // the first token follows nothing
    scores.choices_left = request->n;
  }
}

void Engine::Step() {
  bool ran = false;
  {
    TraceSpan step(track_, "step");
    ran = RunBatch(step);
    const TraceSpan frames(track_, "frames");
    scheduler_.TakeFinished(finished_);
    ReportFinished(clock_.NowNs());
    PublishLoad();
    PublishRanks();
    SendFrames(clock_.NowNs() - last_beat_ns_ >= options_.beat_interval_ms * 1'000'000);
  }
  if (options_.trace != nullptr) options_.trace->EndStep(/*keep=*/ran);
}

void Engine::StartBatches() {
  while (runner_->num_in_flight() < runner_->depth()) {
    const int64_t start_ns = clock_.NowNs();
    const Batch* batch = nullptr;
    {
      const TraceSpan span(track_, "schedule");
      batch = &scheduler_.Next(start_ns);
    }
    if (batch->empty()) return;
    Start(*batch, start_ns);
  }
}

void Engine::StartAhead() {
  if (!runner_->can_run_ahead()) return;
  const int64_t start_ns = clock_.NowNs();
  const Batch* batch = nullptr;
  {
    const TraceSpan span(track_, "schedule");
    batch = &scheduler_.NextAhead(start_ns);
  }
  if (!batch->empty()) Start(*batch, start_ns);
}

void Engine::Start(const Batch& batch, int64_t start_ns) {
  open_steps_.push_back({.batch = &batch, .start_ns = start_ns, .planned_ns = clock_.NowNs()});
  runner_->Submit(batch, [this] { Progress(); });
}

bool Engine::RunBatch(TraceSpan& step) {
  StartBatches();
  StartAhead();
  if (open_steps_.empty()) return false;
  const OpenStep open = open_steps_.front();
  open_steps_.pop_front();
  runner_->Collect(outcome_);
  const int64_t ran = clock_.NowNs();
  ++step_;
  const TraceSpan span(track_, "commit");
  for (StepOutcome::PromptPart& part : outcome_.prompt_parts) {
    std::vector<TokenLogprobs>& all = prompt_scores_[part.sequence->request.get()].logprobs;
    std::move(part.logprobs.begin(), part.logprobs.end(), std::back_inserter(all));
  }
  sampled_.clear();
  for (StepOutcome::Choice& choice : outcome_.choices) {
    choice.previous_token_ns = choice.sequence->last_token_ns;
    sampled_.push_back({.sequence = choice.sequence,
                        .token_id = choice.result.token_id,
                        .numeric_error = choice.result.numeric_error,
                        .no_candidate = choice.result.no_candidate});
  }
  PublishStep(*open.batch, std::max(open.start_ns, last_ran_ns_), ran);
  last_ran_ns_ = ran;
  if (track_ != nullptr) DescribeStep(*open.batch, step);
  scheduler_.Commit(sampled_, ran);
  const int64_t committed = clock_.NowNs();
  if (runner_->returns_early()) {
    runner_->Settle(scheduler_.dropped());
    StartNext();
  }
  const int64_t started = clock_.NowNs();
  ReportChoices(ran);
  metrics_.schedule_seconds->Observe(
      Seconds(open.planned_ns - open.start_ns + committed - ran + clock_.NowNs() - started));
  return true;
}

// Who came during the step is in the next one.
void Engine::StartNext() {
  {
    const std::lock_guard lock(mutex_);
    std::swap(inbox_, taken_);
  }
  ApplyTaken();
  StartBatches();
}

// What the step added to each choice: the output tokens that its client does not have yet.
void Engine::ReportChoices(int64_t now_ns) {
  for (StepOutcome::Choice& choice : outcome_.choices) {
    Sequence& sequence = *choice.sequence;
    if (sequence.num_output_tokens() == sequence.num_sent_tokens) continue;
    const auto session = sessions_.find(sequence.request->session);
    if (session == sessions_.end()) continue;
    SequenceResult& result = NewResult(session->second, sequence);
    for (; sequence.num_sent_tokens < sequence.num_output_tokens(); ++sequence.num_sent_tokens) {
      result.token_ids.push_back(sequence.output()[sequence.num_sent_tokens]);
    }
    if (choice.result.has_logprobs) {
      result.logprobs.push_back(std::move(choice.result.logprobs));
    }
    metrics_.vllm_generation_tokens->Increment();
    if (choice.previous_token_ns == 0) {
      metrics_.vllm_ttft->Observe(Seconds(now_ns - sequence.arrival_ns));
    } else {
      metrics_.vllm_itl->Observe(Seconds(now_ns - choice.previous_token_ns));
    }
  }
}

void Engine::ReportFinished(int64_t now_ns) {
  for (const Finished& finished : finished_) {
    const Sequence& sequence = *finished.sequence;
    PublishFinished(finished, now_ns);
    RecordSpans(finished, now_ns);
    if (finished.reason == FinishReason::kError) {
      const LogRequest about(sequence.request->id, sequence.request->traceparent);
      spdlog::warn("request {} choice {} failed: {}",
                   sequence.request->id,
                   sequence.choice_index,
                   std::string(finished.status.message()));
    }
    const auto session = sessions_.find(sequence.request->session);
    if (session != sessions_.end()) {
      SequenceResult& result = ResultFor(session->second, sequence);
      result.finish_reason = finished.reason;
      result.error = finished.status;
      result.has_stop_token = finished.has_stop_token;
      result.stop_token_id = finished.has_stop_token ? finished.stop_token_id : 0;
    }
    const auto scores = prompt_scores_.find(sequence.request.get());
    if (scores != prompt_scores_.end() && --scores->second.choices_left == 0) {
      prompt_scores_.erase(scores);
    }
  }
  finished_.clear();
}

SequenceResult& Engine::NewResult(Session& session, const Sequence& sequence) {
  SequenceResult& result =
      session.frame.results.emplace_back(SequenceResult{.request_id = sequence.request->id,
                                                        .attempt = sequence.request->attempt,
                                                        .choice_index = sequence.choice_index,
                                                        .first_index = sequence.num_sent_tokens,
                                                        .cached_tokens = sequence.cached_tokens});
  AddPromptScores(sequence, result);
  return result;
}

// A step gives a sequence its last token before it ends it; both go into one result.
SequenceResult& Engine::ResultFor(Session& session, const Sequence& sequence) {
  for (SequenceResult& result : session.frame.results) {
    if (result.choice_index == sequence.choice_index && result.request_id == sequence.request->id &&
        result.attempt == sequence.request->attempt) {
      return result;
    }
  }
  return NewResult(session, sequence);
}

void Engine::AddPromptScores(const Sequence& sequence, SequenceResult& result) {
  const int32_t replayed =
      static_cast<int32_t>(sequence.request->token_ids.size()) - sequence.num_prompt_tokens;
  if (sequence.num_sent_tokens != replayed) return;  // not its first result
  const auto scores = prompt_scores_.find(sequence.request.get());
  if (scores != prompt_scores_.end()) result.prompt_logprobs = scores->second.logprobs;
}

// Where a choice's time went, up to where it came.
void Engine::RecordSpans(const Finished& finished, int64_t now_ns) const {
  const Sequence& sequence = *finished.sequence;
  const Request& request = *sequence.request;
  if (options_.spans == nullptr || request.traceparent.empty() || !IsSampled(request.traceparent)) {
    return;
  }
  const bool is_good = finished.reason == FinishReason::kStop ||
                       finished.reason == FinishReason::kLength ||
                       finished.reason == FinishReason::kCancelled;
  const std::string error =
      is_good ? "" : (finished.reason == FinishReason::kDeadline ? "deadline" : "error");
  // `end_ns` 0: it ended before that.
  const auto add = [&](const char* name,
                       int64_t start_ns,
                       int64_t end_ns,
                       std::vector<SpanAttribute> attributes) {
    attributes.push_back({"paceline.choice", int64_t{sequence.choice_index}});
    options_.spans->Add({.trace_id = std::string(TraceIdOf(request.traceparent)),
                         .id = NewSpanId(),
                         .parent_id = std::string(ParentIdOf(request.traceparent)),
                         .name = name,
                         .start_ns = start_ns,
                         .end_ns = end_ns == 0 ? now_ns : end_ns,
                         .error = end_ns == 0 ? error : "",
                         .attributes = std::move(attributes)});
  };
  add("queue", sequence.arrival_ns, sequence.was_scheduled ? sequence.first_scheduled_ns : 0, {});
  if (!sequence.was_scheduled) return;
  const auto given = static_cast<int64_t>(request.token_ids.size());
  add("prefill",
      sequence.first_scheduled_ns,
      sequence.first_token_ns,
      {{"paceline.tokens", given}, {"paceline.cached_tokens", int64_t{sequence.cached_tokens}}});
  if (sequence.first_token_ns == 0) return;
  add("decode",
      sequence.first_token_ns,
      is_good ? sequence.last_token_ns : 0,
      {{"paceline.tokens", sequence.num_tokens() - given},
       {"paceline.preemptions", int64_t{sequence.num_preemptions}}});
}

EngineLoad Engine::LoadNow() const {
  const Scheduler::Load load = scheduler_.load();
  return {.running = load.running,
          .waiting = load.waiting,
          .waiting_tokens = load.waiting_tokens,
          .free_blocks = load.free_blocks,
          .total_blocks = load.total_blocks,
          .step = step_,
          .sessions = static_cast<int32_t>(sessions_.size()),
          .is_draining = is_draining_};
}

void Engine::SendFrames(bool beat) {
  KvEvents events;
  cache_.TakeEvents(events);
  const EngineLoad now = LoadNow();
  for (auto& [id, session] : sessions_) {
    if (!beat && session.frame.results.empty() && events.empty() && !session.needs_index) continue;
    session.frame.load = now;
    if (session.needs_index) {
      session.frame.kv_events.stored = cache_.Hashes();
      session.frame.kv_reset = true;
      session.needs_index = false;
    } else {
      session.frame.kv_events = events;
    }
    session.sink->OnFrame(std::exchange(session.frame, Frame{}));
  }
  if (beat) last_beat_ns_ = clock_.NowNs();
}

void Engine::Progress() {
  const int64_t now = clock_.NowNs();
  last_progress_ns_.store(now, std::memory_order_relaxed);
  // Inside a long step: what it has to say comes at its end, but routers must see that it lives.
  if (now - last_beat_ns_ < options_.beat_interval_ms * 1'000'000) return;
  last_beat_ns_ = now;
  for (auto& [id, session] : sessions_) session.sink->OnFrame({.load = LoadNow()});
}

}  // namespace paceline::worker
