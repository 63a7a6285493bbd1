#include "worker/trace/step_trace.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"

namespace paceline::worker {
namespace {

constexpr std::string_view kEnd = "\n]\n";

// The format counts in microseconds; the fraction keeps nanoseconds.
void AppendMicroseconds(std::string& text, int64_t ns) {
  absl::StrAppend(&text, ns / 1000, ".");
  const int64_t fraction = ns % 1000;
  text.push_back(static_cast<char>('0' + fraction / 100));
  text.push_back(static_cast<char>('0' + fraction / 10 % 10));
  text.push_back(static_cast<char>('0' + fraction % 10));
}

void AppendEvent(std::string& text, int pid, const TraceEvent& event) {
  absl::StrAppend(&text, ",\n{\"name\":\"", event.name, "\",\"ph\":\"X\",\"pid\":", pid);
  absl::StrAppend(&text, ",\"tid\":", event.thread, ",\"ts\":");
  AppendMicroseconds(text, event.start_ns);
  text.append(",\"dur\":");
  AppendMicroseconds(text, event.end_ns - event.start_ns);
  const char* separator = ",\"args\":{";
  for (const TraceArg& arg : event.args) {
    if (arg.name == nullptr) break;
    absl::StrAppend(&text, separator, "\"", arg.name, "\":", arg.value);
    separator = ",";
  }
  text.append(event.args[0].name == nullptr ? "}" : "}}");
}

std::string Escaped(std::string_view value) {
  std::string text;
  for (const char c : value) {
    if (c == '"' || c == '\\') text.push_back('\\');
    text.push_back(static_cast<unsigned char>(c) < 0x20 ? ' ' : c);
  }
  return text;
}

}  // namespace

size_t TraceTrack::Begin(const char* name) {
  events_.push_back({.name = name, .start_ns = clock_.NowNs(), .thread = thread_});
  return events_.size() - 1;
}

void TraceTrack::AddArgs(size_t event, std::initializer_list<TraceArg> args) {
  auto& all = events_[event].args;
  size_t used = 0;
  while (used < all.size() && all[used].name != nullptr) ++used;
  for (const TraceArg& arg : args) {
    if (used == all.size()) return;
    all[used++] = arg;
  }
}

absl::StatusOr<std::unique_ptr<StepTrace>> StepTrace::Open(const Options& options,
                                                           const Clock& clock) {
  const int fd = open(options.path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--step-trace ", options.path, ": ", std::strerror(errno)));
  }
  auto trace = std::unique_ptr<StepTrace>(new StepTrace(options, fd, clock));
  std::string header = trace->Header();
  if (!trace->Append(header)) {  // a pipe, or no space
    return absl::InvalidArgumentError(
        absl::StrCat("--step-trace ", options.path, ": ", std::strerror(errno)));
  }
  trace->writer_ = std::thread([trace = trace.get()] { trace->WriterLoop(); });
  return trace;
}

StepTrace::StepTrace(const Options& options, int fd, const Clock& clock)
    : options_(options), fd_(fd), pid_(getpid()) {
  for (int32_t i = 0; i < options.num_threads; ++i) {
    tracks_.push_back(std::make_unique<TraceTrack>(i, clock));
  }
}

StepTrace::~StepTrace() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (writer_.joinable()) writer_.join();
  close(fd_);
}

// Names for the viewer; every later event can begin with a comma.
std::string StepTrace::Header() const {
  std::string text = absl::StrCat("[\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":",
                                  pid_,
                                  ",\"args\":{\"name\":\"",
                                  Escaped(options_.process_name),
                                  "\"}}");
  for (int32_t i = 0; i < options_.num_threads; ++i) {
    const std::string name = i == 0 ? "engine" : absl::StrCat("compute ", i);
    absl::StrAppend(&text, ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":", pid_);
    absl::StrAppend(&text, ",\"tid\":", i, ",\"args\":{\"name\":\"", name, "\"}}");
  }
  return text;
}

void StepTrace::EndStep(bool keep) {
  if (keep) {
    std::unique_lock lock(mutex_);
    size_t count = pending_.size();
    for (const auto& track : tracks_) count += track->events_.size();
    if (count > options_.max_pending_events) {
      ++dropped_steps_;
    } else {
      for (const auto& track : tracks_) {
        pending_.insert(pending_.end(), track->events_.begin(), track->events_.end());
      }
    }
    lock.unlock();
    wake_.notify_one();
  }
  for (const auto& track : tracks_) track->events_.clear();
}

void StepTrace::WriterLoop() {
  std::vector<TraceEvent> events;
  for (;;) {
    int64_t dropped = 0;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !pending_.empty(); });
      events.clear();
      std::swap(events, pending_);
      dropped = std::exchange(dropped_steps_, 0);
      if (events.empty()) return;  // stopped, and all is written
    }
    WriteEvents(events, dropped);
  }
}

// REQUIRES: there are events.
void StepTrace::WriteEvents(const std::vector<TraceEvent>& events, int64_t dropped_steps) {
  if (full_) return;
  text_.clear();
  for (const TraceEvent& event : events) AppendEvent(text_, pid_, event);
  if (dropped_steps > 0) {
    absl::StrAppend(&text_, ",\n{\"name\":\"dropped\",\"ph\":\"i\",\"s\":\"p\",\"pid\":", pid_);
    text_.append(",\"tid\":0,\"ts\":");
    AppendMicroseconds(text_, events.back().end_ns);
    absl::StrAppend(&text_, ",\"args\":{\"steps\":", dropped_steps, "}}");
  }
  const auto size = static_cast<int64_t>(text_.size() + kEnd.size());
  if (file_bytes_ + size > options_.max_file_bytes) {
    spdlog::warn("step trace {}: {} MiB are full; tracing ends",
                 options_.path,
                 options_.max_file_bytes >> 20);
    full_ = true;
  } else if (!Append(text_)) {
    spdlog::warn("step trace {}: {}; tracing ends", options_.path, std::strerror(errno));
    full_ = true;
  }
}

bool StepTrace::Append(std::string& text) {
  const auto text_bytes = static_cast<int64_t>(text.size());
  text.append(kEnd);
  for (size_t done = 0; done < text.size();) {
    const ssize_t written =
        pwrite(fd_, text.data() + done, text.size() - done, file_bytes_ + static_cast<off_t>(done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const int error = errno;
      // Out of space in the middle of an event: back to what was whole.
      if (ftruncate(fd_, file_bytes_) == 0 && file_bytes_ > 0) {
        [[maybe_unused]] const ssize_t closed = pwrite(fd_, kEnd.data(), kEnd.size(), file_bytes_);
      }
      errno = error;
      return false;
    }
    done += static_cast<size_t>(written);
  }
  file_bytes_ += text_bytes;
  return true;
}

}  // namespace paceline::worker
