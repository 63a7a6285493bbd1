#include "cli/child_processes.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"

namespace paceline::cli {
namespace {

constexpr int64_t kMaxBackoffMs = 60'000;
constexpr int64_t kForgetBackoffMs = 60'000;
constexpr int64_t kCrashWindowMs = 600'000;
constexpr size_t kCrashLimit = 5;
constexpr int64_t kTryAgainMs = 1000;
constexpr int64_t kBeatMs = 1000;    // twice what lies between two signs of life
constexpr int64_t kSilentMs = 4000;  // a rank that shows none for so long hangs

std::string Describe(int wait_status, bool ended_by_us = false) {
  if (WIFSIGNALED(wait_status)) {
    const int signal = WTERMSIG(wait_status);
    return absl::StrCat("signal ",
                        signal,
                        " (",
                        strsignal(signal),
                        ")",
                        signal == SIGKILL && !ended_by_us ? "; out of memory?" : "");
  }
  return absl::StrCat("status ", WEXITSTATUS(wait_status));
}

bool WantsToTryAgain(int wait_status) {
  return WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == kTryAgainExit;
}

// Starts this binary with `arguments`; -1 and errno when the system refuses.
pid_t StartProcess(std::vector<std::string>& arguments, const std::vector<int>& inherited_fds) {
  std::string program = "/proc/self/exe";
  std::vector<char*> argv = {const_cast<char*>("paceline")};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);

  // What configures the parent must not configure the child a second time: its arguments say it
  // all.
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const bool configures = text.substr(0, 9) == "PACELINE_" || text.substr(0, 4) == "LWS_";
    if (!configures || text.substr(0, 17) == "PACELINE_CPU_ISA=") environment.push_back(*entry);
  }
  environment.push_back(nullptr);

  const pid_t pid = fork();
  if (pid != 0) return pid;
  // Only async-signal-safe calls from here: other threads may hold locks.
  sigset_t none;
  sigemptyset(&none);
  pthread_sigmask(SIG_SETMASK, &none, nullptr);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  setpgid(0, 0);  // Ctrl-C reaches the supervisor only, which ends its children in order
  // Libraries open sockets that would stay open in the child: a client's connection would not end
  // when we close it.
  close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  for (const int fd : inherited_fds) fcntl(fd, F_SETFD, 0);
  execve(program.c_str(), argv.data(), environment.data());
  _exit(127);
}

}  // namespace

ChildProcesses::~ChildProcesses() { Stop(0); }

absl::Status ChildProcesses::Start(std::vector<std::string> arguments) {
  return Start([arguments = std::move(arguments)]() -> absl::StatusOr<Launch> {
    return Launch{.commands = {arguments}};
  });
}

absl::Status ChildProcesses::Start(std::function<absl::StatusOr<Launch>()> launch) {
  children_.push_back({.launch = std::move(launch)});
  return Spawn(children_.back());
}

absl::Status ChildProcesses::Spawn(Child& child) {
  absl::StatusOr<Launch> launch = child.launch();
  if (!launch.ok()) return launch.status();
  child.resources = launch->resources;
  child.first_rank = launch->first_rank;
  child.beats = launch->beats;
  child.heard.assign(child.beats == nullptr ? 0 : launch->commands.size(), {});
  child.ended_for_silence = false;
  child.started_ms = SteadyClock::Get().NowMs();
  for (std::vector<std::string>& arguments : launch->commands) {
    const pid_t pid = StartProcess(arguments, launch->inherited_fds);
    if (pid < 0) {
      return absl::InternalError(absl::StrCat("fork failed: ", std::strerror(errno)));
    }
    child.pids.push_back(pid);
  }
  return absl::OkStatus();
}

absl::Status ChildProcesses::Tend(int64_t now_ms) {
  for (Child& child : children_) {
    if (child.pids.empty()) {
      if (now_ms < child.restart_at_ms) continue;
      spdlog::info("restarting a worker");
      if (absl::Status status = Spawn(child); !status.ok()) return status;
      continue;
    }
    Watch(child, now_ms);
    for (size_t i = 0; i < child.pids.size(); ++i) {
      int wait_status = 0;
      if (waitpid(child.pids[i], &wait_status, WNOHANG) != child.pids[i]) continue;
      const pid_t pid = child.pids[i];
      wait_status = Reap(child, i, wait_status);
      if (absl::Status status = OnExit(child, pid, wait_status, now_ms); !status.ok()) {
        return status;
      }
      break;
    }
  }
  tended_ms_ = now_ms;
  return absl::OkStatus();
}

void ChildProcesses::Watch(Child& child, int64_t now_ms) {
  for (size_t i = 0; i < child.heard.size(); ++i) {
    Heard& heard = child.heard[i];
    const uint32_t beats = child.beats(i);
    // What was sent while this process did not run was not heard in time.
    if (beats != heard.beats || now_ms - tended_ms_ > kBeatMs) heard = {beats, now_ms};
    if (beats == 0 || now_ms - heard.since_ms < kSilentMs) continue;
    spdlog::error("rank {} (pid {}) has shown no sign of life for {} s; ending its group",
                  child.first_rank + i,
                  child.pids[i],
                  kSilentMs / 1000);
    kill(child.pids[i], SIGKILL);
    heard = {0, now_ms};
    child.ended_for_silence = true;
  }
}

int ChildProcesses::Reap(Child& child, size_t ended, int wait_status) {
  const bool has_others = child.pids.size() > 1;
  if (has_others && !WantsToTryAgain(wait_status)) {
    spdlog::warn("rank {} ended with {}; ending the others",
                 child.first_rank + ended,
                 Describe(wait_status, child.ended_for_silence));
  }
  for (size_t i = 0; i < child.pids.size(); ++i) {
    if (i != ended) kill(child.pids[i], SIGKILL);
  }
  for (size_t i = 0; i < child.pids.size(); ++i) {
    int status = 0;
    if (i == ended || waitpid(child.pids[i], &status, 0) != child.pids[i]) continue;
    // A refused configuration is what the user needs to hear of.
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2) wait_status = status;
  }
  child.pids.clear();
  child.resources = nullptr;
  return wait_status;
}

absl::Status ChildProcesses::OnExit(Child& child, pid_t pid, int wait_status, int64_t now_ms) {
  const int64_t ran_ms = now_ms - child.started_ms;
  if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 2 && child.deaths_ms.empty()) {
    return absl::InvalidArgumentError("a worker refused its configuration (see above)");
  }
  if (WantsToTryAgain(wait_status)) {
    child.restart_at_ms = now_ms + kTryAgainMs;
    return absl::OkStatus();
  }
  std::erase_if(child.deaths_ms, [&](int64_t t) { return now_ms - t > kCrashWindowMs; });
  child.deaths_ms.push_back(now_ms);
  if (child.deaths_ms.size() >= kCrashLimit) {
    return absl::InternalError(absl::StrCat(
        "a worker died ", kCrashLimit, " times in ten minutes, last with ", Describe(wait_status)));
  }
  if (ran_ms > kForgetBackoffMs) child.backoff_ms = 1000;
  spdlog::warn("worker {} ended with {} after {:.1f} s; restart in {} s",
               pid,
               Describe(wait_status, child.ended_for_silence),
               static_cast<double>(ran_ms) / 1000,
               child.backoff_ms / 1000);
  child.restart_at_ms = now_ms + child.backoff_ms;
  child.backoff_ms = std::min(kMaxBackoffMs, child.backoff_ms * 2);
  return absl::OkStatus();
}

void ChildProcesses::Signal(int signal) {
  for (const Child& child : children_) {
    for (const pid_t pid : child.pids) kill(pid, signal);
  }
}

void ChildProcesses::Stop(int64_t grace_ms) {
  const int64_t end = SteadyClock::Get().NowMs() + grace_ms;
  Signal(grace_ms > 0 ? SIGTERM : SIGKILL);
  for (Child& child : children_) {
    for (const pid_t pid : child.pids) {
      while (waitpid(pid, nullptr, WNOHANG) == 0) {
        if (SteadyClock::Get().NowMs() >= end) kill(pid, SIGKILL);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
    }
    child.pids.clear();
  }
}

int ReservePort(int preferred) {
  for (int port = preferred; port < preferred + 1000 && port < 65536; ++port) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return preferred;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0) {
      // Stays bound, and never listens: who sets this too, as servers do, can share it.
      const int on = 1;
      setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
      return port;
    }
    close(fd);
  }
  return preferred;
}

}  // namespace paceline::cli
