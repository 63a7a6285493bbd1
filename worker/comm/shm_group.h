// The memory that the ranks of one group on one host share: who is there, what each contributes to
// the current operation, a channel from each rank to each, and why the group ended. An anonymous
// file: it is gone when the last process that has it open or mapped is. Made once per group, by
// the process that starts the ranks; a rank that is forked keeps it, one that is executed opens the
// descriptor again. Shared by its communicators. Any thread.
#ifndef PACELINE_WORKER_COMM_SHM_GROUP_H_
#define PACELINE_WORKER_COMM_SHM_GROUP_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "worker/comm/communicator.h"
#include "worker/comm/step.h"

namespace paceline::worker {

// A number that only grows, which ranks can sleep on. It wraps: at most 2^31 apart are compared.
struct Signal {
  std::atomic<uint32_t> value;
  std::atomic<uint32_t> sleepers;

  bool Reached(uint32_t target) const {
    return static_cast<int32_t>(value.load(std::memory_order_acquire) - target) >= 0;
  }
  // One rank raises a signal, always the same one.
  void Raise(uint32_t to);
  void WakeAll();
  // Sleeps until the value may have changed, somebody calls WakeAll, or `ms` passed.
  void Sleep(uint32_t until, int64_t ms);
};

// What the others need to know about a rank.
struct alignas(64) Seat {
  Signal arrived;  // number of the last collective step whose contribution is in the outbox
  Step steps[2];   // of the last two steps, by their parity; like the outboxes
  Signal joined;   // 1: `pid` is valid
  std::atomic<uint32_t> taken;
  std::atomic<uint32_t> left;
  std::atomic<int32_t> pid;
  std::atomic<uint32_t> beats;  // counted up by the rank while all is well, for who started it
  // What the rank has done so far, for who measures.
  std::atomic<int64_t> steps_done;
  std::atomic<int64_t> compute_ns;
  std::atomic<int64_t> wait_ns;
  std::atomic<int64_t> timed_ns;  // on its device, and of that in exchanges
  std::atomic<int64_t> exchange_ns;
};

// Bytes on their way from one rank to another: a ring, with the counts of bytes ever put and taken.
struct alignas(64) Channel {
  Signal written;
  alignas(64) Signal read;
};

// Why the group ended, once and for all. Should the one who writes the text die meanwhile, there is
// none, and everybody sees that death.
struct alignas(64) Verdict {
  std::atomic<uint32_t> state;  // 0 none, 1 being written, 2 written
  char text[252];
};

class ShmGroup {
 public:
  struct Options {
    int size = 1;  // ranks
    // What a rank can contribute to a step; larger operations take several. Touched as used.
    int64_t outbox_bytes = 256 << 10;
    // What Send takes over before the peer receives, per pair and direction. A power of two.
    int64_t channel_bytes = 1 << 20;
  };

  // InvalidArgument: options out of range. Internal: the system refuses.
  static absl::StatusOr<std::shared_ptr<ShmGroup>> Create(const Options& options);
  // InvalidArgument when `fd` is no group of this build. Takes the descriptor over.
  static absl::StatusOr<std::shared_ptr<ShmGroup>> Open(int fd);
  ~ShmGroup();
  ShmGroup(const ShmGroup&) = delete;
  ShmGroup& operator=(const ShmGroup&) = delete;

  // Closed on exec: who starts a rank by exec dups it first. Owned by the group.
  int fd() const { return fd_; }
  int size() const { return size_; }
  int64_t outbox_bytes() const { return outbox_bytes_; }
  uint32_t channel_bytes() const { return channel_bytes_; }

  Seat& seat(int rank) { return seats_[rank]; }
  // [outbox_bytes], one for even and one for odd steps.
  std::byte* outbox(int rank, uint32_t step) {
    return outboxes_ + (2 * rank + static_cast<int>(step & 1)) * outbox_bytes_;
  }
  Channel& channel(int from, int to) { return channels_[from * size_ + to]; }
  // [channel_bytes]
  std::byte* ring(int from, int to) {
    return rings_ + (from * size_ + to) * int64_t{channel_bytes_};
  }

  // Ends the group, waking everybody; the first text stays, cut to fit.
  void Abort(std::string_view text);
  bool aborted() const { return verdict_->state.load(std::memory_order_acquire) == kWritten; }
  // Aborted with the text. REQUIRES: aborted().
  absl::Status AbortedStatus() const { return absl::AbortedError(verdict_->text); }

 private:
  static constexpr uint32_t kWritten = 2;

  ShmGroup(int fd, std::byte* base, size_t bytes);

  const int fd_;
  std::byte* const base_;
  const size_t bytes_;
  // From here on: copies of the header, and where in the memory its parts are.
  int size_;
  int64_t outbox_bytes_;
  uint32_t channel_bytes_;
  Verdict* verdict_;
  Seat* seats_;
  Channel* channels_;
  std::byte* outboxes_;
  std::byte* rings_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_SHM_GROUP_H_
