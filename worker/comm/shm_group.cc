#include "worker/comm/shm_group.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace paceline::worker {
namespace {

constexpr uint64_t kMagic = 0x50614365436f6d31;  // changes with the layout
constexpr size_t kPage = 4096;

struct alignas(64) Header {
  uint64_t magic;
  int64_t size;
  int64_t outbox_bytes;
  int64_t channel_bytes;
};

// Where everything is, in bytes from the start.
struct Layout {
  size_t verdict, seats, channels, outboxes, rings, end;

  explicit Layout(const Header& header) {
    const size_t size = static_cast<size_t>(header.size);
    const auto up = [](size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; };
    verdict = sizeof(Header);
    seats = verdict + sizeof(Verdict);
    channels = seats + size * sizeof(Seat);
    outboxes = up(channels + size * size * sizeof(Channel));
    rings = outboxes + size * 2 * static_cast<size_t>(header.outbox_bytes);
    end = rings + size * size * static_cast<size_t>(header.channel_bytes);
  }
};

bool IsValid(const Header& header) {
  return header.size >= 1 && header.size <= kMaxCommRanks && header.outbox_bytes >= 64 &&
         header.outbox_bytes <= (1 << 28) && header.outbox_bytes % 64 == 0 &&
         header.channel_bytes >= 64 && header.channel_bytes <= (1 << 28) &&
         (header.channel_bytes & (header.channel_bytes - 1)) == 0;
}

}  // namespace

void Signal::Raise(uint32_t to) {
  // Together with Sleep: either the sleeper sees the value, or this sees the sleeper.
  value.store(to, std::memory_order_seq_cst);
  if (sleepers.load(std::memory_order_seq_cst) != 0) WakeAll();
}

void Signal::WakeAll() { syscall(SYS_futex, &value, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0); }

void Signal::Sleep(uint32_t until, int64_t ms) {
  static_assert(sizeof(value) == sizeof(uint32_t) && std::atomic<uint32_t>::is_always_lock_free);
  const timespec time = {ms / 1000, ms % 1000 * 1'000'000};
  sleepers.fetch_add(1, std::memory_order_seq_cst);
  const uint32_t now = value.load(std::memory_order_seq_cst);
  if (static_cast<int32_t>(now - until) < 0) {
    syscall(SYS_futex, &value, FUTEX_WAIT, now, &time, nullptr, 0);
  }
  sleepers.fetch_sub(1, std::memory_order_relaxed);
}

absl::StatusOr<std::shared_ptr<ShmGroup>> ShmGroup::Create(const Options& options) {
  const Header header = {kMagic, options.size, options.outbox_bytes, options.channel_bytes};
  if (!IsValid(header)) {
    return absl::InvalidArgumentError(absl::StrCat("no group of ",
                                                   options.size,
                                                   " ranks with outboxes of ",
                                                   options.outbox_bytes,
                                                   " and channels of ",
                                                   options.channel_bytes,
                                                   " bytes"));
  }
  const int fd = memfd_create("paceline_comm", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return absl::InternalError(absl::StrCat("memfd_create: ", std::strerror(errno)));
  // Zeroes are the initial state of everything but the header. Sealed, so that no process can make
  // another fault by cutting the file.
  if (ftruncate(fd, static_cast<off_t>(Layout(header).end)) != 0 ||
      pwrite(fd, &header, sizeof(header), 0) != sizeof(header) ||
      fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int error = errno;
    close(fd);
    return absl::InternalError(
        absl::StrCat("shared memory of ", Layout(header).end, " bytes: ", std::strerror(error)));
  }
  return Open(fd);
}

absl::StatusOr<std::shared_ptr<ShmGroup>> ShmGroup::Open(int fd) {
  Header header = {};
  struct stat file = {};
  if (pread(fd, &header, sizeof(header), 0) != sizeof(header) || header.magic != kMagic ||
      !IsValid(header) || fstat(fd, &file) != 0 ||
      file.st_size != static_cast<off_t>(Layout(header).end)) {
    if (fd >= 0) close(fd);
    return absl::InvalidArgumentError(
        absl::StrCat("descriptor ", fd, " is no group of ranks of this build"));
  }
  const size_t bytes = Layout(header).end;
  void* const base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    close(fd);
    return absl::InternalError(absl::StrCat("mmap of ", bytes, " bytes: ", std::strerror(error)));
  }
  return std::shared_ptr<ShmGroup>(new ShmGroup(fd, static_cast<std::byte*>(base), bytes));
}

ShmGroup::ShmGroup(int fd, std::byte* base, size_t bytes) : fd_(fd), base_(base), bytes_(bytes) {
  const Header& header = *reinterpret_cast<const Header*>(base);
  const Layout layout(header);
  size_ = static_cast<int>(header.size);
  outbox_bytes_ = header.outbox_bytes;
  channel_bytes_ = static_cast<uint32_t>(header.channel_bytes);
  verdict_ = reinterpret_cast<Verdict*>(base + layout.verdict);
  seats_ = reinterpret_cast<Seat*>(base + layout.seats);
  channels_ = reinterpret_cast<Channel*>(base + layout.channels);
  outboxes_ = base + layout.outboxes;
  rings_ = base + layout.rings;
}

ShmGroup::~ShmGroup() {
  munmap(base_, bytes_);
  close(fd_);
}

void ShmGroup::Abort(std::string_view text) {
  uint32_t none = 0;
  if (verdict_->state.compare_exchange_strong(none, 1)) {
    const size_t length = std::min(text.size(), sizeof(Verdict::text) - 1);
    std::copy_n(text.begin(), length, verdict_->text);  // zeroes follow
    verdict_->state.store(kWritten, std::memory_order_release);
  }
  for (int rank = 0; rank < size_; ++rank) {
    seat(rank).arrived.WakeAll();
    seat(rank).joined.WakeAll();
    for (int to = 0; to < size_; ++to) {
      channel(rank, to).written.WakeAll();
      channel(rank, to).read.WakeAll();
    }
  }
}

}  // namespace paceline::worker
