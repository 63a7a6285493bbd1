// The two groups of a rank whose replica spans hosts, from one configured address: all ranks of the
// replica, and those of the rank's stage. Ranks are numbered stage by stage. Called once per rank,
// by the thread that joins.
#ifndef PACELINE_WORKER_COMM_TCP_REPLICA_H_
#define PACELINE_WORKER_COMM_TCP_REPLICA_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/communicator.h"
#include "worker/comm/shm_group.h"
#include "worker/comm/socket.h"
#include "worker/comm/tcp_rendezvous.h"

namespace paceline::worker {

// An error of one group does not end the other: who meets one calls Abort on the other.
struct TcpReplica {
  std::unique_ptr<Communicator> all;    // options.size ranks
  std::unique_ptr<Communicator> stage;  // stage_size ranks; this one is rank % stage_size
  // By rank: copies of connections to the others that close when those end; not to be read.
  std::vector<Socket> peers;
};

// `stage_memory` is that of this rank's stage when one host holds all its ranks, made by whoever
// starts them there; null on all ranks of a stage that spans hosts, which then talk over TCP.
// InvalidArgument: sizes that do not divide or are not those of the memory. Otherwise as
// JoinTcpMesh and JoinShmGroup; where one rank fails, all do within the time-out.
absl::StatusOr<TcpReplica> JoinTcpReplica(const TcpOptions& options,
                                          int rank,
                                          int stage_size,
                                          std::shared_ptr<ShmGroup> stage_memory);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_TCP_REPLICA_H_
