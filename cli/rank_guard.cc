#include "cli/rank_guard.h"

#include <poll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstring>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace paceline::cli {
namespace {

constexpr int kGraceMs = 2000;
constexpr std::string_view kLine =
    "a rank of this worker is gone, and this one has not ended since: killing it\n";

// In the forked process. `polls` are in ascending order.
[[noreturn]] void Watch(pid_t rank, std::vector<pollfd>& polls) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != rank) _exit(0);
  // A copy of a connection would keep it open after the rank's end.
  unsigned first = 3;
  for (const pollfd& peer : polls) {
    const auto fd = static_cast<unsigned>(peer.fd);
    if (fd > first) close_range(first, fd - 1, 0);
    first = fd + 1;
  }
  close_range(first, UINT_MAX, 0);
  while (poll(polls.data(), polls.size(), -1) <= 0) {
  }
  poll(nullptr, 0, kGraceMs);
  (void)!write(STDERR_FILENO, kLine.data(), kLine.size());
  kill(rank, SIGKILL);
  _exit(0);
}

}  // namespace

absl::Status StartRankGuard(const std::vector<worker::Socket>& peers) {
  std::vector<pollfd> polls;
  for (const worker::Socket& peer : peers) {
    if (peer.is_open()) polls.push_back({peer.fd(), POLLRDHUP, 0});
  }
  std::sort(
      polls.begin(), polls.end(), [](const pollfd& a, const pollfd& b) { return a.fd < b.fd; });
  const pid_t rank = getpid();
  const pid_t guard = fork();
  if (guard == 0) Watch(rank, polls);
  if (guard < 0) return absl::InternalError(absl::StrCat("fork failed: ", std::strerror(errno)));
  return absl::OkStatus();
}

}  // namespace paceline::cli
