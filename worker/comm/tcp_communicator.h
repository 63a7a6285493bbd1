// The communicator of ranks on several hosts: a data and a control connection between each pair.
// The control connections say at once who has aborted, left or died, also to ranks that wait for
// somebody else. A waiting rank tries for a while, then sleeps in poll.
#ifndef PACELINE_WORKER_COMM_TCP_COMMUNICATOR_H_
#define PACELINE_WORKER_COMM_TCP_COMMUNICATOR_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/comm/communicator.h"
#include "worker/comm/tcp_rendezvous.h"

namespace paceline::worker {

// REQUIRES: `mesh` is of rank `rank`.
std::unique_ptr<Communicator> MakeTcpCommunicator(TcpMesh mesh, int rank, int64_t spin_us);

// Joins as JoinTcpMesh does.
absl::StatusOr<std::unique_ptr<Communicator>> JoinTcpGroup(const TcpOptions& options,
                                                           int rank,
                                                           Socket listener = {});

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_TCP_COMMUNICATOR_H_
