#include "worker/runner/rank_group.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "proto/support/status_macros.h"
#include "worker/comm/shm_communicator.h"
#include "worker/comm/tcp_replica.h"

namespace paceline::worker {
namespace {

constexpr int kLeader = 0;
// A message comes in one piece when it fits: its length, then so many numbers.
constexpr size_t kFirstPiece = 256;
constexpr int32_t kEnd = -1;
// Room in a channel for rows of logits that the leader has not taken yet: 42 of 49,152 tokens. More
// make the last stage wait.
constexpr int64_t kLogitsRoom = 8 << 20;
constexpr int64_t kPlanRoom = 64 << 10;  // for a step's plan

absl::Span<std::byte> Bytes(int32_t* data, size_t count) {
  return {reinterpret_cast<std::byte*>(data), count * sizeof(int32_t)};
}

}  // namespace

bool LocalRanks::HasStage(int32_t stage) const {
  const int32_t begin = stage * sizes.tensor_size;
  return sizes.tensor_size > 1 && begin >= first() &&
         begin + sizes.tensor_size <= first() + count();
}

absl::StatusOr<LocalRanks> LocalRanks::Create(int32_t tensor_size,
                                              int32_t num_stages,
                                              HostPlace host,
                                              int64_t step_bytes) {
  LocalRanks ranks{.sizes = RankPlace::Of(0, tensor_size, num_stages), .host = host};
  if (ranks.sizes.num_ranks() > 1) {
    ShmGroup::Options options{.size = ranks.count()};
    const int64_t room = num_stages == 1 || host.num_nodes > 1
                             ? 0
                             : std::max(kLogitsRoom, num_stages * (step_bytes + kPlanRoom));
    while (options.channel_bytes < room) options.channel_bytes *= 2;
    ASSIGN_OR_RETURN(ranks.all, ShmGroup::Create(options));
  }
  ranks.stages.resize(num_stages);
  for (int32_t stage = 0; stage < num_stages; ++stage) {
    if (!ranks.HasStage(stage)) continue;
    ASSIGN_OR_RETURN(ranks.stages[stage], ShmGroup::Create({.size = tensor_size}));
  }
  return ranks;
}

absl::StatusOr<LocalRanks> LocalRanks::Open(int32_t tensor_size,
                                            int32_t num_stages,
                                            HostPlace host,
                                            const std::vector<int>& fds) {
  LocalRanks ranks{.sizes = RankPlace::Of(0, tensor_size, num_stages), .host = host};
  size_t next = 0;
  const auto open = [&](std::shared_ptr<ShmGroup>& group) -> absl::Status {
    if (next == fds.size()) return absl::InvalidArgumentError("rank: too few descriptors");
    ASSIGN_OR_RETURN(group, ShmGroup::Open(fds[next++]));
    return absl::OkStatus();
  };
  if (ranks.sizes.num_ranks() > 1) RETURN_IF_ERROR(open(ranks.all));
  ranks.stages.resize(num_stages);
  for (int32_t stage = 0; stage < num_stages; ++stage) {
    if (ranks.HasStage(stage)) RETURN_IF_ERROR(open(ranks.stages[stage]));
  }
  if (next != fds.size()) return absl::InvalidArgumentError("rank: too many descriptors");
  return ranks;
}

std::vector<int> LocalRanks::fds() const {
  std::vector<int> fds;
  if (all != nullptr) fds.push_back(all->fd());
  for (const std::shared_ptr<ShmGroup>& stage : stages) {
    if (stage != nullptr) fds.push_back(stage->fd());
  }
  return fds;
}

absl::Status RankGroup::AwaitAll() {
  if (all == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(all->Barrier());
  all->set_timeout_ms(kStageTimeoutMs);
  if (tensor != nullptr) tensor->set_timeout_ms(kLayerTimeoutMs);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RankGroup>> JoinLocalRanks(const LocalRanks& ranks, int32_t rank) {
  auto group = std::make_unique<RankGroup>();
  group->place = RankPlace::Of(rank, ranks.sizes.tensor_size, ranks.sizes.num_stages);
  if (ranks.all == nullptr) return group;
  ASSIGN_OR_RETURN(group->all, JoinShmGroup(ranks.all, rank, {}));
  group->seats = ranks.all;
  group->pulse = std::make_unique<Pulse>(ranks.Beats(rank));
  const std::shared_ptr<ShmGroup>& stage = ranks.stages[group->place.stage];
  if (stage == nullptr) return group;
  ASSIGN_OR_RETURN(group->tensor, JoinShmGroup(stage, group->place.tensor_rank, {}));
  return group;
}

absl::StatusOr<std::unique_ptr<RankGroup>> JoinRanksOfNodes(const LocalRanks& ranks,
                                                            int32_t rank,
                                                            TcpOptions options) {
  auto group = std::make_unique<RankGroup>();
  group->place = RankPlace::Of(rank, ranks.sizes.tensor_size, ranks.sizes.num_stages);
  options.size = ranks.sizes.num_ranks();
  ASSIGN_OR_RETURN(
      TcpReplica replica,
      JoinTcpReplica(options, rank, ranks.sizes.tensor_size, ranks.stages[group->place.stage]));
  group->all = std::move(replica.all);
  group->peers = std::move(replica.peers);
  group->seats = ranks.all;
  group->first_seat = ranks.first();
  group->pulse = std::make_unique<Pulse>(ranks.Beats(rank));
  if (ranks.sizes.tensor_size > 1) group->tensor = std::move(replica.stage);
  return group;
}

// To each rank on its own: a stage that still computes an earlier step holds up nobody.
absl::Status PlanSender::SendToAll(RankGroup& group, absl::Span<std::byte> data) {
  for (int rank = 1; rank < group.all->size(); ++rank) {
    RETURN_IF_ERROR(group.all->Send(data, rank));
  }
  return absl::OkStatus();
}

absl::Status PlanSender::Send(RankGroup& group, const StepPlan& plan) {
  encoder_.Encode(plan, message_);
  int32_t piece[1 + kFirstPiece] = {static_cast<int32_t>(message_.size())};
  const size_t first = std::min(message_.size(), kFirstPiece);
  std::memcpy(piece + 1, message_.data(), first * sizeof(int32_t));
  RETURN_IF_ERROR(SendToAll(group, Bytes(piece, std::size(piece))));
  if (message_.size() == first) return absl::OkStatus();
  return SendToAll(group, Bytes(message_.data() + first, message_.size() - first));
}

absl::Status PlanSender::SendEnd(RankGroup& group) {
  int32_t piece[1 + kFirstPiece] = {kEnd};
  return SendToAll(group, Bytes(piece, std::size(piece)));
}

absl::StatusOr<bool> PlanReceiver::Receive(RankGroup& group, StepPlan& plan) {
  int32_t piece[1 + kFirstPiece];
  group.all->set_timeout_ms(kNoTimeout);
  RETURN_IF_ERROR(group.all->Recv(Bytes(piece, std::size(piece)), kLeader));
  group.all->set_timeout_ms(kStageTimeoutMs);
  if (piece[0] == kEnd) return false;
  message_.resize(piece[0]);
  const size_t first = std::min(message_.size(), kFirstPiece);
  std::memcpy(message_.data(), piece + 1, first * sizeof(int32_t));
  if (message_.size() > first) {
    RETURN_IF_ERROR(
        group.all->Recv(Bytes(message_.data() + first, message_.size() - first), kLeader));
  }
  RETURN_IF_ERROR(decoder_.Decode(message_, plan));
  return true;
}

}  // namespace paceline::worker
