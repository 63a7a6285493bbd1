// Spans of engine steps, written to a file in the Trace Event Format (a JSON array of events),
// which Perfetto and chrome://tracing show. Owned by the process, beside the engine, which it
// outlives. Threads: a track belongs to one thread at a time; EndStep is for the engine thread,
// while no other thread records.
#ifndef PACELINE_WORKER_TRACE_STEP_TRACE_H_
#define PACELINE_WORKER_TRACE_STEP_TRACE_H_

#include <array>
#include <condition_variable>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/support/clock.h"

namespace paceline::worker {

struct TraceArg {
  const char* name = nullptr;  // a literal
  int64_t value = 0;
};

struct TraceEvent {
  static constexpr size_t kMaxArgs = 6;

  const char* name = nullptr;  // a literal
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  int32_t thread = 0;
  std::array<TraceArg, kMaxArgs> args;  // up to the first without a name
};

// The spans of one thread in the step that runs, in the order of their beginnings.
class TraceTrack {
 public:
  TraceTrack(int32_t thread, const Clock& clock) : thread_(thread), clock_(clock) {}

  size_t Begin(const char* name);
  void AddArgs(size_t event, std::initializer_list<TraceArg> args);
  void End(size_t event) { events_[event].end_ns = clock_.NowNs(); }

 private:
  friend class StepTrace;

  const int32_t thread_;
  const Clock& clock_;
  std::vector<TraceEvent> events_;
};

// Times the scope that it lives in. Spans of a track nest as scopes do.
class TraceSpan {
 public:
  // `track` may be null: nothing is recorded.
  explicit TraceSpan(TraceTrack* track,
                     const char* name,  // a literal
                     std::initializer_list<TraceArg> args = {})
      : track_(track) {
    if (track_ == nullptr) return;
    event_ = track_->Begin(name);
    track_->AddArgs(event_, args);
  }
  ~TraceSpan() {
    if (track_ != nullptr) track_->End(event_);
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

  // At most TraceEvent::kMaxArgs in all; more are left out.
  void AddArgs(std::initializer_list<TraceArg> args) {
    if (track_ != nullptr) track_->AddArgs(event_, args);
  }

 private:
  TraceTrack* const track_;
  size_t event_ = 0;
};

class StepTrace {
 public:
  struct Options {
    std::string path;
    std::string process_name;  // as the viewer shows it
    int32_t num_threads = 1;   // tracks
    int64_t max_file_bytes = int64_t{512} << 20;
    size_t max_pending_events = 1 << 16;  // for the writer: 9 MB; beyond it steps are dropped
  };

  // Creates or empties the file and starts the writer. InvalidArgument names the path and what is
  // wrong with it. The file is a whole JSON array after each write, whatever becomes of the
  // process.
  static absl::StatusOr<std::unique_ptr<StepTrace>> Open(const Options& options,
                                                         const Clock& clock);
  // Writes what is pending.
  ~StepTrace();
  StepTrace(const StepTrace&) = delete;
  StepTrace& operator=(const StepTrace&) = delete;

  TraceTrack* track(int32_t thread) { return tracks_[thread].get(); }
  // Hands the tracks' spans to the writer or, unless `keep`, forgets them.
  void EndStep(bool keep);

 private:
  StepTrace(const Options& options, int fd, const Clock& clock);

  void WriterLoop();
  // Overwrites the closing bracket. False: the file takes no more.
  bool Append(std::string& text);
  void WriteEvents(const std::vector<TraceEvent>& events, int64_t dropped_steps);
  std::string Header() const;

  const Options options_;
  const int fd_;
  const int pid_;
  std::vector<std::unique_ptr<TraceTrack>> tracks_;  // engine thread, but for what records

  // Writer thread only, once it runs.
  int64_t file_bytes_ = 0;  // without the closing bracket
  bool full_ = false;       // nothing more is written
  std::string text_;

  std::mutex mutex_;  // guards the next four
  std::condition_variable wake_;
  std::vector<TraceEvent> pending_;
  int64_t dropped_steps_ = 0;
  bool stop_ = false;
  std::thread writer_;  // last: starts when everything else is there
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_TRACE_STEP_TRACE_H_
