// Runs the ranks of a test, as threads or as processes of their own, and collects what each says.
#ifndef PACELINE_TESTS_WORKER_COMM_RANKS_H_
#define PACELINE_TESTS_WORKER_COMM_RANKS_H_

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace paceline::worker {

// One thread per rank; returns their results in rank order.
std::vector<absl::Status> RunThreads(int ranks, const std::function<absl::Status(int)>& run);

// One forked process per rank. Kills and reaps what is left when it goes out of scope.
class RankProcesses {
 public:
  // `run` is called in the child, which ends with it. REQUIRES: this process has no other threads.
  RankProcesses(int ranks, const std::function<absl::Status(int)>& run);
  ~RankProcesses();
  RankProcesses(const RankProcesses&) = delete;
  RankProcesses& operator=(const RankProcesses&) = delete;

  pid_t pid(int rank) const { return pids_[rank]; }
  void Signal(int rank, int signal);
  // Blocks until the rank has called Ready (or ended).
  void AwaitReady(int rank);
  // What the rank's function returned, with its code and text. Unknown when it was killed.
  absl::Status Result(int rank);

  // In a child: tells AwaitReady.
  static void Ready();

 private:
  std::vector<pid_t> pids_;
  std::vector<int> from_;  // the read ends of the children's pipes
};

}  // namespace paceline::worker

#endif  // PACELINE_TESTS_WORKER_COMM_RANKS_H_
