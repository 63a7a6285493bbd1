// The ranks of a replica as one of them sees them: its place, everybody, and those it shares its
// layers with. Owned by the rank's process; engine thread or rank loop only.
#ifndef PACELINE_WORKER_RUNNER_RANK_GROUP_H_
#define PACELINE_WORKER_RUNNER_RANK_GROUP_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/comm/communicator.h"
#include "worker/comm/shm_group.h"
#include "worker/comm/tcp_rendezvous.h"
#include "worker/models/exchange_times.h"
#include "worker/models/partition.h"
#include "worker/runner/pulse.h"
#include "worker/runner/step_plan.h"

namespace paceline::worker {

// How long a rank waits for another in the midst of a step: within a layer, and for what a whole
// pipeline stage takes.
constexpr int64_t kLayerTimeoutMs = 5'000;
constexpr int64_t kStageTimeoutMs = 60'000;

// Exit status of a process whose group lost a rank: to be started again, with the others.
constexpr int kLostRankExit = 3;

struct RankGroup {
  RankPlace place;
  std::unique_ptr<Communicator> all;     // null: one rank alone
  std::unique_ptr<Communicator> tensor;  // of its stage, in tensor-rank order; null: one
  std::shared_ptr<ShmGroup> seats;       // of the ranks of this host; null: one alone
  int32_t first_seat = 0;                // the rank that has the first one
  std::vector<Socket> peers;             // across hosts: as TcpReplica says
  std::unique_ptr<Pulse> pulse;          // null: one rank
  ExchangeTimes exchange_times;          // of its device; of a CPU none

  bool is_leader() const { return place.stage == 0 && place.tensor_rank == 0; }
  // What the exchanges with other ranks have taken so far.
  int64_t waited_ns() const {
    return (all == nullptr ? 0 : all->waited_ns()) + (tensor == nullptr ? 0 : tensor->waited_ns());
  }
  // Returns when every rank has called it, without limit; from then on operations have one.
  absl::Status AwaitAll();
  // Rank in `all`.
  int RankOf(int32_t stage, int32_t tensor_rank) const {
    return stage * place.tensor_size + tensor_rank;
  }
};

// How the ranks of a replica are dealt out to hosts: evenly, in order.
struct HostPlace {
  int32_t node = 0;
  int32_t num_nodes = 1;
};

// The ranks of one host and the memory that they share, made by the process that starts them.
struct LocalRanks {
  RankPlace sizes;  // of the replica
  HostPlace host;
  // This host's: their pulses, and how they exchange if these are all. Null: one rank.
  std::shared_ptr<ShmGroup> all;
  std::vector<std::shared_ptr<ShmGroup>> stages;  // [num_stages]; null: one rank, or not all here

  // `step_bytes`: the hidden states of the largest step, [max_batch_tokens, hidden] f32. A channel
  // holds them for as many steps as there are stages, so no stage waits for the next one to take
  // its results: the leader always comes to take logits.
  // REQUIRES: the nodes divide the ranks.
  static absl::StatusOr<LocalRanks> Create(int32_t tensor_size,
                                           int32_t num_stages,
                                           HostPlace host,
                                           int64_t step_bytes);
  // The same memory in another process, which has inherited these descriptors. Takes them over.
  static absl::StatusOr<LocalRanks> Open(int32_t tensor_size,
                                         int32_t num_stages,
                                         HostPlace host,
                                         const std::vector<int>& fds);
  std::vector<int> fds() const;

  int32_t count() const { return sizes.num_ranks() / host.num_nodes; }
  int32_t first() const { return host.node * count(); }
  // How often a rank of this host has shown that it lives; 0: not yet. REQUIRES: several ranks.
  std::shared_ptr<std::atomic<uint32_t>> Beats(int32_t rank) const {
    return {all, &all->seat(rank - first()).beats};
  }

 private:
  bool HasStage(int32_t stage) const;
};

// Takes rank `rank`'s seats; returns when every rank has. Errors: JoinShmGroup's.
// REQUIRES: one host.
absl::StatusOr<std::unique_ptr<RankGroup>> JoinLocalRanks(const LocalRanks& ranks, int32_t rank);
// The same across hosts; `options.size` is set here. Errors: JoinTcpReplica's.
absl::StatusOr<std::unique_ptr<RankGroup>> JoinRanksOfNodes(const LocalRanks& ranks,
                                                            int32_t rank,
                                                            TcpOptions options);

// Tells the other ranks what the step is. Leader only. Errors: the communicator's.
class PlanSender {
 public:
  absl::Status Send(RankGroup& group, const StepPlan& plan);
  // Tells them that there will be no more.
  absl::Status SendEnd(RankGroup& group);

 private:
  static absl::Status SendToAll(RankGroup& group, absl::Span<std::byte> data);

  PlanEncoder encoder_;
  std::vector<int32_t> message_;
};

// Waits for the leader's plans.
class PlanReceiver {
 public:
  // False: the end. Waits without limit as long as the leader lives.
  absl::StatusOr<bool> Receive(RankGroup& group, StepPlan& plan);

 private:
  PlanDecoder decoder_;
  std::vector<int32_t> message_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_RUNNER_RANK_GROUP_H_
