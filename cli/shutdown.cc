#include "cli/shutdown.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <ctime>
#include <thread>

namespace paceline::cli {
namespace {

sigset_t ShutdownSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGCHLD);
  return set;
}

// SIGHUP has its usual effect where it is not blocked.
sigset_t AwaitedSignals() {
  sigset_t set = ShutdownSignals();
  sigaddset(&set, SIGHUP);
  return set;
}

}  // namespace

void BlockShutdownSignals() {
  const sigset_t set = ShutdownSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

void BlockReloadSignal() {
  const sigset_t set = AwaitedSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

std::optional<int> WaitForSignal(std::chrono::milliseconds timeout) {
  const sigset_t set = AwaitedSignals();
  const timespec limit{.tv_sec = timeout.count() / 1000,
                       .tv_nsec = (timeout.count() % 1000) * 1'000'000};
  const int signal = sigtimedwait(&set, nullptr, &limit);
  if (signal < 0) return std::nullopt;
  return signal;
}

bool AsksToStop(std::optional<int> signal) { return signal == SIGINT || signal == SIGTERM; }

void ForceExitOnNextSignal() {
  std::thread([] {
    for (;;) {
      if (AsksToStop(WaitForSignal(std::chrono::hours(1)))) std::_Exit(130);
    }
  }).detach();
}

void DieWithParent() {
  const pid_t parent = getppid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent may have died before the line above took effect.
  if (getppid() != parent || parent == 1) std::_Exit(1);
}

}  // namespace paceline::cli
