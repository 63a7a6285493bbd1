// How the ranks of a group on several hosts find each other: all connect to rank 0, which tells
// them where the others listen; then each pair has two connections, one for data and one for
// control. Called once per rank, by the thread that joins.
#ifndef PACELINE_WORKER_COMM_TCP_RENDEZVOUS_H_
#define PACELINE_WORKER_COMM_TCP_RENDEZVOUS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/socket.h"

namespace paceline::worker {

struct TcpOptions {
  int size = 1;             // ranks; the same everywhere
  std::string master_addr;  // of rank 0's host: a name, or an address
  int master_port = 0;
  // Names the group and its incarnation; a rank that brings another one is refused. At most 127
  // bytes. It prevents mistakes, not attacks.
  std::string group;
  // Secrets. Every connection begins with both sides proving, without sending it, that they know
  // the connecting side's first one; the other side takes any of its own. Empty: nothing to prove.
  // What follows is neither encrypted nor protected against changes on the way.
  std::vector<std::string> tokens;
  int64_t join_timeout_ms = 60'000;
  int64_t spin_us = 50;  // how long a rank tries before it sleeps
};

// The connections of one rank, by peer; none to itself.
struct TcpMesh {
  uint64_t incarnation = 0;  // drawn by rank 0, the same on all ranks
  std::vector<Socket> data;
  std::vector<Socket> control;
};

// `listener` is rank 0's, listening where `options` says; not open: rank 0 makes it.
//   DeadlineExceeded    ranks are missing (all ranks that came are told which); no rank 0
//   FailedPrecondition  rank 0 is of another group, or of another build, or has other tokens
//   InvalidArgument     rank or size out of range, or another size than rank 0's
//   AlreadyExists       another process has joined as this rank
//   Unavailable         rank 0 cannot listen, or died
absl::StatusOr<TcpMesh> JoinTcpMesh(const TcpOptions& options, int rank, Socket listener);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_TCP_RENDEZVOUS_H_
