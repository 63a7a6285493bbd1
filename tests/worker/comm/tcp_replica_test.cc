#include "worker/comm/tcp_replica.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/support/status_macros.h"
#include "tests/worker/comm/ranks.h"

namespace paceline::worker {
namespace {

using ::testing::HasSubstr;

// What is configured, and what the starters of the ranks prepare.
struct Replica {
  Replica(int stage_size, int num_stages, bool stages_share_memory)
      : stage_size(stage_size), num_stages(num_stages), stages(num_stages) {
    options.size = stage_size * num_stages;
    options.master_addr = "127.0.0.1";
    options.master_port = LocalEndpoint(*ListenTcp("127.0.0.1", 0)).port;  // free again
    options.group = "test";
    options.join_timeout_ms = 30'000;
    for (auto& memory : stages) {
      if (stages_share_memory) memory = *ShmGroup::Create({.size = stage_size});
    }
  }

  absl::StatusOr<TcpReplica> Join(int rank) const {
    return JoinTcpReplica(options, rank, stage_size, stages[rank / stage_size]);
  }

  const int stage_size;
  const int num_stages;
  std::vector<std::shared_ptr<ShmGroup>> stages;
  TcpOptions options;
};

absl::Status Expect(int64_t value, int64_t expected, const std::string& what) {
  if (value == expected) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, ": ", value, " instead of ", expected));
}

// One step of a pipeline: every stage adds up its ranks and hands the sum on; the last stage's
// result goes to everybody.
absl::Status RunStep(const Replica& replica, int rank) {
  ASSIGN_OR_RETURN(const TcpReplica comm, replica.Join(rank));
  const int size = replica.stage_size;
  const int stage = rank / size;
  RETURN_IF_ERROR(Expect(comm.all->rank(), rank, "rank"));
  RETURN_IF_ERROR(Expect(comm.all->size(), size * replica.num_stages, "size"));
  RETURN_IF_ERROR(Expect(comm.stage->rank(), rank % size, "rank in stage"));
  RETURN_IF_ERROR(Expect(comm.stage->size(), size, "stage size"));
  int64_t value = 0;
  const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(&value), sizeof(value));
  if (stage > 0) RETURN_IF_ERROR(comm.all->Recv(bytes, rank - size));
  value += int64_t{1} << (4 * rank);
  RETURN_IF_ERROR(comm.stage->AllReduceSum(absl::MakeSpan(&value, 1)));
  if (stage + 1 < replica.num_stages) RETURN_IF_ERROR(comm.all->Send(bytes, rank + size));
  RETURN_IF_ERROR(comm.all->Broadcast(bytes, comm.all->size() - 1));
  int64_t expected = 0;
  for (int s = 0; s < replica.num_stages; ++s) {
    expected *= size;  // each of its ranks brings the sum so far
    for (int i = 0; i < size; ++i) expected += int64_t{1} << (4 * (s * size + i));
  }
  return Expect(value, expected, "result");
}

void ExpectStep(const Replica& replica) {
  const auto results =
      RunThreads(replica.options.size, [&](int rank) { return RunStep(replica, rank); });
  for (const absl::Status& result : results) {
    EXPECT_TRUE(result.ok()) << replica.stage_size << "x" << replica.num_stages << result;
  }
}

TEST(TcpReplicaTest, EveryLayoutIsJoined) {
  for (const bool stages_share_memory : {false, true}) {
    for (const auto& [stage_size, num_stages] :
         {std::pair{1, 1}, {2, 1}, {1, 3}, {2, 2}, {3, 2}, {2, 4}}) {
      ExpectStep(Replica(stage_size, num_stages, stages_share_memory));
    }
  }
}

TEST(TcpReplicaTest, StagesMayDifferInWhetherTheyShareMemory) {
  Replica replica(2, 2, true);
  replica.stages[1] = nullptr;
  ExpectStep(replica);
}

TEST(TcpReplicaTest, RefusesWhatDoesNotFit) {
  const auto code = [](int size, int stage_size, std::shared_ptr<ShmGroup> memory) {
    const TcpOptions options = {.size = size, .master_addr = "127.0.0.1"};
    return JoinTcpReplica(options, 0, stage_size, std::move(memory)).status().code();
  };
  EXPECT_EQ(code(2, 0, nullptr), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(3, 2, nullptr), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(4, 2, *ShmGroup::Create({.size = 3})), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(0, 1, nullptr), absl::StatusCode::kInvalidArgument);
}

TEST(TcpReplicaTest, ARankThatFailsToJoinItsStageEndsTheReplica) {
  const Replica replica(2, 2, true);
  replica.stages[1]->seat(0).taken = 1;  // somebody else sits there
  const auto results = RunThreads(4, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(const TcpReplica comm, replica.Join(rank));
    return comm.all->Barrier();
  });
  EXPECT_TRUE(absl::IsAlreadyExists(results[2])) << results[2];
  for (const absl::Status& result : results) {
    EXPECT_THAT(std::string(result.message()), HasSubstr("rank 0 is there already"));
  }
}

}  // namespace
}  // namespace paceline::worker
