#include "tests/worker/comm/ranks.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "proto/support/log.h"

namespace paceline::worker {
namespace {

int to_parent = -1;

}  // namespace

std::vector<absl::Status> RunThreads(int ranks, const std::function<absl::Status(int)>& run) {
  std::vector<absl::Status> results(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] { results[rank] = run(rank); });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

// What a child writes: 'r' when ready, and at the end 's', the code as a letter, the text.
RankProcesses::RankProcesses(int ranks, const std::function<absl::Status(int)>& run) {
  for (int rank = 0; rank < ranks; ++rank) {
    int ends[2];
    PACELINE_CHECK(pipe(ends) == 0, "pipe");
    const pid_t pid = fork();
    PACELINE_CHECK(pid >= 0, "fork");
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);  // no rank outlives a test that is killed
      for (const int end : from_) close(end);
      close(ends[0]);
      to_parent = ends[1];
      const absl::Status status = run(rank);
      const std::string text = std::string("s") + static_cast<char>('A' + status.raw_code()) +
                               std::string(status.message());
      const bool written =
          write(to_parent, text.data(), text.size()) == static_cast<ssize_t>(text.size());
      _exit(written ? 0 : 1);
    }
    close(ends[1]);
    pids_.push_back(pid);
    from_.push_back(ends[0]);
  }
}

RankProcesses::~RankProcesses() {
  for (size_t rank = 0; rank < pids_.size(); ++rank) {
    kill(pids_[rank], SIGKILL);
    waitpid(pids_[rank], nullptr, 0);
    close(from_[rank]);
  }
}

void RankProcesses::Signal(int rank, int signal) {
  PACELINE_CHECK(kill(pids_[rank], signal) == 0, "kill");
}

void RankProcesses::AwaitReady(int rank) {
  char letter = 0;
  PACELINE_CHECK(read(from_[rank], &letter, 1) == 1 && letter == 'r', "the rank is not ready");
}

absl::Status RankProcesses::Result(int rank) {
  std::string text;
  char buffer[512];
  for (ssize_t n = 0; (n = read(from_[rank], buffer, sizeof(buffer))) > 0;) text.append(buffer, n);
  const size_t at = text.find('s');
  if (at == std::string::npos) return absl::UnknownError("ended without a result");
  return absl::Status(static_cast<absl::StatusCode>(text.at(at + 1) - 'A'), text.substr(at + 2));
}

void RankProcesses::Ready() { PACELINE_CHECK(write(to_parent, "r", 1) == 1, "write"); }

}  // namespace paceline::worker
