// The worker processes of `paceline serve`: started from this very binary, restarted with back-off
// when they die, ended with it. Owned by the serve command; its main thread only.
#ifndef PACELINE_CLI_CHILD_PROCESSES_H_
#define PACELINE_CLI_CHILD_PROCESSES_H_

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace paceline::cli {

class ChildProcesses {
 public:
  // Ends what still runs, at once.
  ~ChildProcesses();

  // Starts a child with these arguments (after the program's name). Internal: the system refuses.
  absl::Status Start(std::vector<std::string> arguments);

  // Call on SIGCHLD and now and then: takes leave of children that ended and starts those again
  // whose back-off (1, 2, 4 … 60 s; forgotten after a minute of running) is over.
  // InvalidArgument when a child ended with status 2 at its first start (its message is on
  // stderr); Internal when one died five times in ten minutes.
  absl::Status Tend(int64_t now_ms);

  // SIGTERM to all, SIGKILL after `grace_ms` to those that are left.
  void Stop(int64_t grace_ms);

 private:
  struct Child {
    std::vector<std::string> arguments;
    pid_t pid = -1;  // -1: not running
    int64_t started_ms = 0;
    int64_t restart_at_ms = 0;
    int64_t backoff_ms = 1000;
    std::vector<int64_t> deaths_ms;  // of the last ten minutes
  };

  absl::Status Spawn(Child& child);
  absl::Status OnExit(Child& child, int wait_status, int64_t now_ms);

  std::vector<Child> children_;
};

// A port of 127.0.0.1 that is free now: `preferred`, or the next free one after it.
int FindFreePort(int preferred);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_CHILD_PROCESSES_H_
