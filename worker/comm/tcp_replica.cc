#include "worker/comm/tcp_replica.h"

#include <fcntl.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"
#include "worker/comm/shm_communicator.h"
#include "worker/comm/tcp_communicator.h"

namespace paceline::worker {
namespace {

// The addresses of all ranks as this one sees them; its own as its stage sees it.
std::vector<std::string> HostsOf(const TcpMesh& mesh, int rank, int stage_size) {
  const int size = static_cast<int>(mesh.data.size());
  std::vector<std::string> hosts(size);
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    hosts[peer] = PeerEndpoint(mesh.data[peer]).host;
    if (peer / stage_size == rank / stage_size) hosts[rank] = LocalEndpoint(mesh.data[peer]).host;
  }
  return hosts;
}

// The first rank of each stage listens where the others of its stage have met it already, and tells
// them the port through the replica's group. All ranks take part, also those whose stage shares
// memory.
absl::StatusOr<std::unique_ptr<Communicator>> JoinStage(
    TcpOptions options,  // the replica's, with the name of the stage's group
    int rank,
    int stage_size,
    const std::vector<std::string>& hosts,
    const std::shared_ptr<ShmGroup>& memory,
    Communicator& all) {
  const int first = rank / stage_size * stage_size;
  Socket listener;
  std::vector<int32_t> ports(all.size());
  std::vector<int64_t> ends;
  for (int i = 1; i <= all.size(); ++i) ends.push_back(static_cast<int64_t>(sizeof(int32_t)) * i);
  if (memory == nullptr && stage_size > 1 && rank == first) {
    ASSIGN_OR_RETURN(listener, ListenTcp(hosts[rank], 0));
    ports[rank] = LocalEndpoint(listener).port;
  }
  RETURN_IF_ERROR(all.AllGatherColumns(ports.data(), 1, ends.back(), ends));
  if (memory != nullptr) {
    const ShmOptions shm = {.join_timeout_ms = options.join_timeout_ms};
    return JoinShmGroup(memory, rank - first, shm);
  }
  options.size = stage_size;
  options.master_addr = hosts[first];
  options.master_port = ports[first];
  return JoinTcpGroup(options, rank - first, std::move(listener));
}

absl::StatusOr<TcpReplica> Join(const TcpOptions& options,
                                int rank,
                                int stage_size,
                                const std::shared_ptr<ShmGroup>& memory) {
  ASSIGN_OR_RETURN(TcpMesh mesh, JoinTcpMesh(options, rank, Socket()));
  const std::vector<std::string> hosts = HostsOf(mesh, rank, stage_size);
  TcpOptions of_stage = options;
  of_stage.group = absl::StrCat(absl::Hex(mesh.incarnation), "/", rank / stage_size);
  TcpReplica replica;
  for (const Socket& control : mesh.control) {
    replica.peers.emplace_back(control.is_open() ? fcntl(control.fd(), F_DUPFD_CLOEXEC, 0) : -1);
  }
  replica.all = MakeTcpCommunicator(std::move(mesh), rank, options.spin_us);
  replica.all->set_timeout_ms(options.join_timeout_ms);
  auto stage = JoinStage(of_stage, rank, stage_size, hosts, memory, *replica.all);
  if (!stage.ok()) {
    replica.all->Abort(std::string(stage.status().message()));
    return stage.status();
  }
  replica.stage = *std::move(stage);
  replica.all->set_timeout_ms(kNoTimeout);
  return replica;
}

}  // namespace

absl::StatusOr<TcpReplica> JoinTcpReplica(const TcpOptions& options,
                                          int rank,
                                          int stage_size,
                                          std::shared_ptr<ShmGroup> stage_memory) {
  if (stage_size < 1 || options.size % stage_size != 0 ||
      (stage_memory != nullptr && stage_memory->size() != stage_size)) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.size,
                     " ranks cannot be dealt to stages of ",
                     stage_size,
                     ", or the memory is of ",
                     stage_memory == nullptr ? 0 : stage_memory->size()));
  }
  absl::StatusOr<TcpReplica> replica = Join(options, rank, stage_size, stage_memory);
  // Nobody in the stage waits for this rank any longer.
  if (!replica.ok() && stage_memory != nullptr) {
    stage_memory->Abort(std::string(replica.status().message()));
  }
  return replica;
}

}  // namespace paceline::worker
