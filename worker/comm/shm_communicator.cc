#include "worker/comm/shm_communicator.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/support/clock.h"
#include "proto/support/status_macros.h"
#include "worker/comm/sum.h"

namespace paceline::worker {
namespace {

constexpr int64_t kLookMs = 20;  // between looks at the peers while asleep

int64_t NowNs() { return SteadyClock::Get().NowNs(); }

// Spinning pays while every rank has a core; otherwise it keeps a peer from running. (So does
// yielding: on a busy machine it gives away milliseconds.) Not the affinity mask: a rank may be
// bound to its share of the cores.
int64_t DefaultSpinUs(int ranks) { return sysconf(_SC_NPROCESSORS_ONLN) >= ranks ? 100 : 0; }

// Calls copy(piece, offset, bytes) for the parts, each within one row, of bytes
// [first, first + count) of a share laid out row after row. `piece` is the place in the matrix,
// `offset` counts from `first`.
template <typename Copy>
void ForEachPiece(std::byte* column,  // the share's first byte
                  int64_t width,      // bytes of a row
                  int64_t row_stride_bytes,
                  int64_t first,
                  int64_t count,
                  Copy copy) {
  for (int64_t offset = 0; offset < count;) {
    const int64_t row = (first + offset) / width;
    const int64_t in_row = (first + offset) % width;
    const int64_t bytes = std::min(width - in_row, count - offset);
    copy(column + row * row_stride_bytes + in_row, offset, static_cast<size_t>(bytes));
    offset += bytes;
  }
}

// Collectives. In step s a rank puts its contribution into its outbox of the parity of s, raises
// `arrived` to s, and reads the outboxes of others once they have arrived. Arriving at s says that
// all of s - 1 has been read. So the outbox of s - 2 may be overwritten when all have arrived at
// s - 1; nothing else needs to be acknowledged.
class ShmCommunicator final : public Communicator {
 public:
  ShmCommunicator(std::shared_ptr<ShmGroup> group, int rank, int64_t spin_us)
      : Communicator(rank, group->size()), group_(std::move(group)), spin_ns_(spin_us * 1000) {
    pidfds_.fill(-1);
  }

  ~ShmCommunicator() override {
    Seat& seat = group_->seat(rank());
    seat.left.store(1, std::memory_order_release);
    seat.arrived.WakeAll();
    for (int peer = 0; peer < size(); ++peer) {
      group_->channel(rank(), peer).written.WakeAll();
      group_->channel(peer, rank()).read.WakeAll();
      if (pidfds_[peer] >= 0) close(pidfds_[peer]);
    }
  }

  absl::Status Join(int64_t timeout_ms) {
    Seat& mine = group_->seat(rank());
    step_ = mine.arrived.value.load();  // 0 but in a test of its wrapping
    mine.pid.store(getpid());
    mine.joined.Raise(1);
    StartOperation(timeout_ms);
    for (int peer = 0; peer < size(); ++peer) {
      const absl::Status status = Await(group_->seat(peer).joined, 1, peer);
      if (absl::IsDeadlineExceeded(status)) return DidNotJoin(timeout_ms);
      RETURN_IF_ERROR(status);
      RETURN_IF_ERROR(Watch(peer));
    }
    return absl::OkStatus();
  }

  void Abort(std::string_view reason) override { group_->Abort(reason); }

 private:
  absl::Status DoAllReduceSum(void* data, int64_t count, SumType type) override {
    StartOperation(timeout_ms());
    const Step step = AllReduceStep(count, type);
    const int64_t per_step = group_->outbox_bytes() / BytesOf(type);
    std::array<const void*, kMaxCommRanks> parts;
    int64_t first = 0;
    do {
      const int64_t n = std::min(per_step, count - first);
      std::byte* const part = static_cast<std::byte*>(data) + first * BytesOf(type);
      RETURN_IF_ERROR(StartStep());
      if (n > 0) std::memcpy(Outbox(rank()), part, static_cast<size_t>(n * BytesOf(type)));
      Arrive(step);
      for (int peer = 0; peer < size(); ++peer) {
        RETURN_IF_ERROR(AwaitStep(step, peer));
        parts[peer] = Outbox(peer);
      }
      SumInOrder(absl::MakeSpan(parts.data(), size()), n, type, part);
      first += n;
    } while (first < count);
    return absl::OkStatus();
  }

  absl::Status DoAllGatherColumns(const ColumnShares& shares) override {
    StartOperation(timeout_ms());
    const Step step = AllGatherStep(shares.num_rows, shares.end_bytes);
    int64_t longest = 0;
    for (int peer = 0; peer < size(); ++peer) longest = std::max(longest, shares.bytes(peer));
    const auto count_of = [&](int peer, int64_t first) {
      return std::clamp<int64_t>(shares.bytes(peer) - first, 0, group_->outbox_bytes());
    };
    int64_t first = 0;
    do {
      RETURN_IF_ERROR(StartStep());
      ForEachPiece(shares.matrix + shares.begin(rank()),
                   shares.width(rank()),
                   shares.row_stride_bytes,
                   first,
                   count_of(rank(), first),
                   [out = Outbox(rank())](const std::byte* piece, int64_t offset, size_t bytes) {
                     std::memcpy(out + offset, piece, bytes);
                   });
      Arrive(step);
      for (int i = 1; i < size(); ++i) {
        const int peer = (rank() + i) % size();  // not all at the same one
        RETURN_IF_ERROR(AwaitStep(step, peer));
        ForEachPiece(shares.matrix + shares.begin(peer),
                     shares.width(peer),
                     shares.row_stride_bytes,
                     first,
                     count_of(peer, first),
                     [in = Outbox(peer)](std::byte* piece, int64_t offset, size_t bytes) {
                       std::memcpy(piece, in + offset, bytes);
                     });
      }
      first += group_->outbox_bytes();
    } while (first < longest);
    return absl::OkStatus();
  }

  absl::Status DoBroadcast(absl::Span<std::byte> data, int root) override {
    StartOperation(timeout_ms());
    const Step step = BroadcastStep(static_cast<int64_t>(data.size()), root);
    const size_t per_step = static_cast<size_t>(group_->outbox_bytes());
    do {
      const size_t n = std::min(per_step, data.size());
      RETURN_IF_ERROR(StartStep());
      if (rank() == root && n > 0) std::memcpy(Outbox(root), data.data(), n);
      Arrive(step);
      if (rank() != root) {
        RETURN_IF_ERROR(AwaitStep(step, root));
        if (n > 0) std::memcpy(data.data(), Outbox(root), n);
      }
      data.remove_prefix(n);
    } while (!data.empty());
    return absl::OkStatus();
  }

  absl::Status DoSend(absl::Span<const std::byte> data, int to) override {
    StartOperation(timeout_ms());
    const Step step = SendStep(static_cast<int64_t>(data.size()));
    RETURN_IF_ERROR(Put(reinterpret_cast<const std::byte*>(&step), sizeof(step), to));
    return Put(data.data(), data.size(), to);
  }

  absl::Status DoRecv(absl::Span<std::byte> data, int from) override {
    StartOperation(timeout_ms());
    Step theirs = {};
    RETURN_IF_ERROR(Take(reinterpret_cast<std::byte*>(&theirs), sizeof(theirs), from));
    const Step ours = SendStep(static_cast<int64_t>(data.size()));
    RETURN_IF_ERROR(CheckSameStep(ours, theirs, from));
    return Take(data.data(), data.size(), from);
  }

  absl::Status DoCheckPeers() override {
    const int dead = DeadPeer();
    int left = 0;
    while (left < size() && group_->seat(left).left.load(std::memory_order_acquire) == 0) ++left;
    // Looked at last: a peer aborts before it leaves or dies.
    if (group_->aborted()) return group_->AbortedStatus();
    if (dead >= 0) return absl::UnavailableError(absl::StrCat(NameOf(dead), " died"));
    if (left < size()) return absl::UnavailableError(absl::StrCat(NameOf(left), " left the group"));
    return absl::OkStatus();
  }

  // Large messages move in quarters of the ring, so that both sides copy at the same time.
  absl::Status Put(const std::byte* data, size_t bytes, int to) {
    Channel& channel = group_->channel(rank(), to);
    const uint32_t capacity = group_->channel_bytes();
    uint32_t written = channel.written.value.load(std::memory_order_relaxed);
    while (bytes > 0) {
      const uint32_t n = static_cast<uint32_t>(std::min<size_t>(bytes, capacity / 4));
      RETURN_IF_ERROR(Await(channel.read, written + n - capacity, to));
      const uint32_t at = written & (capacity - 1);
      const uint32_t before_end = std::min(n, capacity - at);
      std::memcpy(group_->ring(rank(), to) + at, data, before_end);
      std::memcpy(group_->ring(rank(), to), data + before_end, n - before_end);
      written += n;
      channel.written.Raise(written);
      data += n;
      bytes -= n;
    }
    return absl::OkStatus();
  }

  absl::Status Take(std::byte* data, size_t bytes, int from) {
    Channel& channel = group_->channel(from, rank());
    const uint32_t capacity = group_->channel_bytes();
    uint32_t read = channel.read.value.load(std::memory_order_relaxed);
    while (bytes > 0) {
      const uint32_t n = static_cast<uint32_t>(std::min<size_t>(bytes, capacity / 4));
      RETURN_IF_ERROR(Await(channel.written, read + n, from));
      const uint32_t at = read & (capacity - 1);
      const uint32_t before_end = std::min(n, capacity - at);
      std::memcpy(data, group_->ring(from, rank()) + at, before_end);
      std::memcpy(data + before_end, group_->ring(from, rank()), n - before_end);
      read += n;
      channel.read.Raise(read);
      data += n;
      bytes -= n;
    }
    return absl::OkStatus();
  }

  std::byte* Outbox(int peer) { return group_->outbox(peer, step_); }

  absl::Status StartStep() {
    for (int peer = 0; peer < size(); ++peer) {
      RETURN_IF_ERROR(Await(group_->seat(peer).arrived, step_, peer));
    }
    ++step_;
    return absl::OkStatus();
  }

  void Arrive(const Step& step) {
    Seat& seat = group_->seat(rank());
    seat.steps[step_ & 1] = step;
    seat.arrived.Raise(step_);
  }

  absl::Status AwaitStep(const Step& step, int peer) {
    Seat& seat = group_->seat(peer);
    RETURN_IF_ERROR(Await(seat.arrived, step_, peer));
    return CheckSameStep(step, seat.steps[step_ & 1], peer);
  }

  void StartOperation(int64_t timeout_ms) {
    operation_timeout_ms_ = timeout_ms;
    deadline_ns_ = 0;
  }

  // Until `peer` has raised `signal` to `target`.
  absl::Status Await(Signal& signal, uint32_t target, int peer) {
    if (group_->aborted()) [[unlikely]]
      return group_->AbortedStatus();
    if (signal.Reached(target)) return absl::OkStatus();
    return AwaitSlowly(signal, target, peer);
  }

  absl::Status AwaitSlowly(Signal& signal, uint32_t target, int peer) {
    const int64_t start_ns = NowNs();
    // The operation's first wait starts its time: before, it has only copied.
    if (deadline_ns_ == 0) {
      deadline_ns_ = operation_timeout_ms_ >= kNoTimeout / 2'000'000
                         ? kNoTimeout
                         : start_ns + operation_timeout_ms_ * 1'000'000;
    }
    do {
      for (int i = 0; i < 32; ++i) {
        if (signal.Reached(target)) return absl::OkStatus();
        __builtin_ia32_pause();
      }
    } while (NowNs() - start_ns < spin_ns_);
    while (true) {
      const int64_t left_ms = (deadline_ns_ - NowNs() + 999'999) / 1'000'000;
      signal.Sleep(target, std::clamp<int64_t>(left_ms, 1, kLookMs));
      // Looked at before the rest: what a peer does, it does before it leaves or dies.
      const bool has_left = group_->seat(peer).left.load(std::memory_order_acquire) != 0;
      const int dead = DeadPeer();
      if (group_->aborted()) return group_->AbortedStatus();
      if (signal.Reached(target)) return absl::OkStatus();
      if (has_left) return absl::UnavailableError(absl::StrCat(NameOf(peer), " left the group"));
      if (dead >= 0) return absl::UnavailableError(absl::StrCat(NameOf(dead), " died"));
      if (NowNs() >= deadline_ns_) {
        return absl::DeadlineExceededError(
            absl::StrCat("no word from ", NameOf(peer), " for ", operation_timeout_ms_, " ms"));
      }
    }
  }

  std::string NameOf(int peer) {
    return absl::StrCat("rank ", peer, " (pid ", group_->seat(peer).pid.load(), ")");
  }

  // A peer that ended without leaving; -1: none.
  int DeadPeer() {
    std::array<pollfd, kMaxCommRanks> polls;
    for (int peer = 0; peer < size(); ++peer) polls[peer] = {pidfds_[peer], POLLIN, 0};
    if (poll(polls.data(), static_cast<nfds_t>(size()), 0) <= 0) return -1;
    for (int peer = 0; peer < size(); ++peer) {
      if (polls[peer].revents != 0 && group_->seat(peer).left.load() == 0) return peer;
    }
    return -1;
  }

  // From now on the end of the peer's process is seen. Ranks of this process end with it.
  absl::Status Watch(int peer) {
    const pid_t pid = group_->seat(peer).pid.load();
    if (pid == getpid()) return absl::OkStatus();
    pidfds_[peer] = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (pidfds_[peer] >= 0) return absl::OkStatus();
    if (errno == ESRCH) return absl::UnavailableError(absl::StrCat(NameOf(peer), " died"));
    return absl::InternalError(absl::StrCat("pidfd_open: ", std::strerror(errno)));
  }

  absl::Status DidNotJoin(int64_t timeout_ms) {
    std::string missing;
    for (int peer = 0; peer < size(); ++peer) {
      if (group_->seat(peer).joined.Reached(1)) continue;
      absl::StrAppend(&missing, missing.empty() ? "" : ", ", peer);
    }
    return absl::DeadlineExceededError(
        absl::StrCat("rank ", missing, " of ", size(), " did not join within ", timeout_ms, " ms"));
  }

  const std::shared_ptr<ShmGroup> group_;
  const int64_t spin_ns_;
  std::array<int, kMaxCommRanks> pidfds_;
  uint32_t step_ = 0;  // the last collective step begun
  int64_t operation_timeout_ms_ = kNoTimeout;
  int64_t deadline_ns_ = 0;  // of the current operation; 0: it has not waited yet
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> JoinShmGroup(std::shared_ptr<ShmGroup> group,
                                                           int rank,
                                                           const ShmOptions& options) {
  if (rank < 0 || rank >= group->size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no rank ", rank, " in a group of ", group->size()));
  }
  if (group->seat(rank).taken.exchange(1) != 0) {
    return absl::AlreadyExistsError(absl::StrCat("rank ", rank, " is there already"));
  }
  const int64_t spin_us = options.spin_us < 0 ? DefaultSpinUs(group->size()) : options.spin_us;
  auto communicator = std::make_unique<ShmCommunicator>(group, rank, spin_us);
  if (absl::Status status = communicator->Join(options.join_timeout_ms); !status.ok()) {
    status = absl::Status(status.code(), absl::StrCat("rank ", rank, ": join: ", status.message()));
    if (!absl::IsAborted(status)) group->Abort(std::string(status.message()));
    return status;
  }
  return communicator;
}

}  // namespace paceline::worker
