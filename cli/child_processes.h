// The worker processes of `paceline serve`, and the ranks of one worker: started from this very
// binary, restarted with back-off when they die, ended with it. Owned by the command; its main
// thread only.
#ifndef PACELINE_CLI_CHILD_PROCESSES_H_
#define PACELINE_CLI_CHILD_PROCESSES_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace paceline::cli {

// Exit status of a child that could not begin for want of others, with nothing wrong in itself: it
// is started again after a second and that counts as no death.
constexpr int kTryAgainExit = 4;

// Processes that live and die together: when one ends, so do the others.
struct Launch {
  std::vector<std::vector<std::string>> commands;  // arguments after the program's name
  std::vector<int> inherited_fds;                  // theirs too, under the same numbers
  std::shared_ptr<void> resources;                 // kept while they run
  int first_rank = 0;                              // number of the first one, for the log
  // How often process i has shown that it lives; one that did and then does no more is ended. Null:
  // not watched.
  std::function<uint32_t(size_t i)> beats;
};

class ChildProcesses {
 public:
  // Ends what still runs, at once.
  ~ChildProcesses();

  // Starts one child with these arguments (after the program's name), or what `launch` says at each
  // start. Internal: the system refuses; else launch's errors.
  absl::Status Start(std::vector<std::string> arguments);
  absl::Status Start(std::function<absl::StatusOr<Launch>()> launch);

  // Call on SIGCHLD and now and then: takes leave of children that ended and starts those again
  // whose back-off (1, 2, 4 … 60 s; forgotten after a minute of running) is over, or a second after
  // kTryAgainExit.
  // InvalidArgument when a child ended with status 2 at its first start (its message is on
  // stderr); Internal when one died five times in ten minutes.
  absl::Status Tend(int64_t now_ms);

  // To all that run.
  void Signal(int signal);

  // SIGTERM to all, SIGKILL after `grace_ms` to those that are left.
  void Stop(int64_t grace_ms);

 private:
  struct Heard {
    uint32_t beats = 0;
    int64_t since_ms = 0;
  };
  struct Child {
    std::function<absl::StatusOr<Launch>()> launch;
    std::shared_ptr<void> resources;
    std::vector<pid_t> pids;  // none: not running
    int first_rank = 0;
    std::function<uint32_t(size_t)> beats;
    std::vector<Heard> heard;  // of each process that is watched
    bool ended_for_silence = false;
    int64_t started_ms = 0;
    int64_t restart_at_ms = 0;
    int64_t backoff_ms = 1000;
    std::vector<int64_t> deaths_ms;  // of the last ten minutes
  };

  absl::Status Spawn(Child& child);
  // Ends processes that have fallen silent.
  void Watch(Child& child, int64_t now_ms);
  // Ends and reaps all processes of a child of which one has ended. Its status: that of the first
  // process that has something to say, not just that another was lost.
  int Reap(Child& child, size_t ended, int wait_status);
  absl::Status OnExit(Child& child, pid_t pid, int wait_status, int64_t now_ms);

  std::vector<Child> children_;
  int64_t tended_ms_ = 0;
};

// A free port of 127.0.0.1, `preferred` or the next one after it, that no other call in any process
// returns until this process ends: a child that listens at it may end and be started anew.
int ReservePort(int preferred);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_CHILD_PROCESSES_H_
