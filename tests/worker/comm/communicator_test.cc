// What every backend promises: one suite, run over each.
#include "worker/comm/communicator.h"

#include <sched.h>
#include <signal.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/support/status_macros.h"
#include "tests/worker/comm/ranks.h"
#include "worker/comm/shm_communicator.h"
#include "worker/comm/tcp_communicator.h"

namespace paceline::worker {
namespace {

using ::testing::HasSubstr;

using CommunicatorOr = absl::StatusOr<std::unique_ptr<Communicator>>;

// Smaller than most messages below, so that those take several steps.
constexpr int64_t kBuffer = 1024;
constexpr int64_t kPatienceMs = 30'000;

struct ShmBackend {
  explicit ShmBackend(int size)
      : group(
            *ShmGroup::Create({.size = size, .outbox_bytes = kBuffer, .channel_bytes = kBuffer})) {}
  CommunicatorOr Join(int rank, int64_t timeout_ms = kPatienceMs) {
    return JoinShmGroup(group, rank, {.join_timeout_ms = timeout_ms});
  }
  std::shared_ptr<ShmGroup> group;
};

struct TcpBackend {
  explicit TcpBackend(int size)
      : listener(*ListenTcp("127.0.0.1", 0)),
        options{.size = size,
                .master_addr = "127.0.0.1",
                .master_port = LocalEndpoint(listener).port,
                .group = "test"} {}
  CommunicatorOr Join(int rank, int64_t timeout_ms = kPatienceMs) {
    TcpOptions mine = options;
    mine.join_timeout_ms = timeout_ms;
    return JoinTcpGroup(mine, rank, Socket(rank == 0 ? dup(listener.fd()) : -1));
  }
  const Socket listener;
  const TcpOptions options;
};

// Joins and calls run(communicator), in one thread per rank; no result may be an error.
template <typename Backend, typename Run>
void RunGroup(int size, Run run) {
  Backend backend(size);
  const auto results = RunThreads(size, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
    comm->set_timeout_ms(kPatienceMs);
    return run(*comm);
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

absl::Status Expect(bool condition, const std::string& text) {
  return condition ? absl::OkStatus() : absl::InternalError(text);
}

// Floats of many magnitudes: another order of additions gives other bits.
template <typename T>
std::vector<T> Values(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<T> values(count);
  for (T& value : values) {
    if constexpr (std::is_same_v<T, float>) {
      const float fraction = static_cast<float>(random()) / 4294967296.0f - 0.5f;
      value = std::ldexp(fraction, static_cast<int>(random() % 24) - 12);
    } else {
      value = static_cast<T>(uint64_t{random()} << 32 | random());
    }
  }
  return values;
}

std::vector<std::byte> Bytes(int64_t count, uint32_t seed) {
  const auto values = Values<int32_t>(count / 4 + 1, seed);
  std::vector<std::byte> bytes(count);
  if (count > 0) std::memcpy(bytes.data(), values.data(), count);
  return bytes;
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

const std::vector<int64_t> kCounts = {0, 1, 3, 63, 64, 65, 255, 256, 257, 577, 1025, 5001, 40'000};

template <typename T>
absl::Status CheckAllReduce(Communicator& comm, int64_t count, uint32_t seed) {
  using Unsigned = std::conditional_t<std::is_same_v<T, int64_t>, uint64_t, uint32_t>;
  std::vector<T> expected;
  for (int rank = 0; rank < comm.size(); ++rank) {
    const auto part = Values<T>(count, seed * 100 + rank);
    if (rank == 0) {
      expected = part;
      continue;
    }
    for (int64_t i = 0; i < count; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        expected[i] = expected[i] + part[i];
      } else {
        expected[i] =
            static_cast<T>(static_cast<Unsigned>(expected[i]) + static_cast<Unsigned>(part[i]));
      }
    }
  }
  auto data = Values<T>(count, seed * 100 + comm.rank());
  RETURN_IF_ERROR(comm.AllReduceSum(absl::MakeSpan(data)));
  return Expect(SameBits(data, expected), absl::StrCat("wrong sum of ", count));
}

// Elements of `element_bytes`; rank r has columns[r] columns. The matrix has two columns' bytes
// more between its rows on odd ranks, which must stay as they are.
absl::Status CheckAllGather(Communicator& comm,
                            int64_t rows,
                            const std::vector<int64_t>& columns,
                            int64_t element_bytes,
                            uint32_t seed) {
  std::vector<int64_t> ends;
  for (const int64_t c : columns) {
    ends.push_back((ends.empty() ? 0 : ends.back()) + c * element_bytes);
  }
  const int64_t begin = comm.rank() == 0 ? 0 : ends[comm.rank() - 1];
  const int64_t width = ends.back();
  const int64_t stride = width + (comm.rank() % 2) * 2 * element_bytes;
  const auto whole = Bytes(rows * width, seed);
  std::vector<std::byte> matrix(rows * stride, std::byte{0xa5});
  std::vector<std::byte> expected = matrix;
  for (int64_t row = 0; row < rows; ++row) {
    if (width == 0) continue;
    std::memcpy(&expected[row * stride], &whole[row * width], width);
    const int64_t mine = ends[comm.rank()] - begin;
    if (mine > 0) std::memcpy(&matrix[row * stride + begin], &whole[row * width + begin], mine);
  }
  RETURN_IF_ERROR(comm.AllGatherColumns(matrix.data(), rows, stride, ends));
  return Expect(SameBits(matrix, expected), absl::StrCat("wrong gather of ", rows, " rows"));
}

absl::Status CheckBroadcast(Communicator& comm, int64_t bytes, int root, uint32_t seed) {
  const auto expected = Bytes(bytes, seed);
  auto data = comm.rank() == root ? expected : std::vector<std::byte>(bytes);
  RETURN_IF_ERROR(comm.Broadcast(absl::MakeSpan(data), root));
  return Expect(SameBits(data, expected), absl::StrCat("wrong broadcast of ", bytes));
}

// Every rank passes a message on to the next one.
absl::Status CheckShift(Communicator& comm, int64_t bytes, uint32_t seed) {
  const int next = (comm.rank() + 1) % comm.size();
  const int previous = (comm.rank() + comm.size() - 1) % comm.size();
  const auto sent = Bytes(bytes, seed * 100 + comm.rank());
  std::vector<std::byte> received(bytes);
  // Somebody must receive first: the message may be larger than what a backend takes over.
  if (comm.rank() != 0) RETURN_IF_ERROR(comm.Recv(absl::MakeSpan(received), previous));
  RETURN_IF_ERROR(comm.Send(sent, next));
  if (comm.rank() == 0) RETURN_IF_ERROR(comm.Recv(absl::MakeSpan(received), previous));
  return Expect(SameBits(received, Bytes(bytes, seed * 100 + previous)), "wrong message");
}

std::vector<int64_t> UnevenColumns(int size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int64_t> columns(size);
  for (int64_t& c : columns) c = random() % 4 == 0 ? 0 : random() % 200;
  return columns;
}

template <typename Backend>
class CommunicatorTest : public ::testing::Test {};

using Backends = ::testing::Types<ShmBackend, TcpBackend>;
TYPED_TEST_SUITE(CommunicatorTest, Backends);

// ---- Operations --------------------------------------------------------------------------------

TYPED_TEST(CommunicatorTest, AllReduceAddsInRankOrder) {
  for (int size = 1; size <= 8; ++size) {
    RunGroup<TypeParam>(size, [](Communicator& comm) {
      for (const int64_t count : kCounts) {
        RETURN_IF_ERROR(CheckAllReduce<float>(comm, count, 1));
        RETURN_IF_ERROR(CheckAllReduce<int32_t>(comm, count, 2));
        RETURN_IF_ERROR(CheckAllReduce<int64_t>(comm, count, 3));
      }
      return absl::OkStatus();
    });
  }
}

TYPED_TEST(CommunicatorTest, AllGatherPlacesTheColumnsOfEveryRank) {
  for (int size = 1; size <= 8; ++size) {
    RunGroup<TypeParam>(size, [size](Communicator& comm) {
      uint32_t seed = 0;
      for (const int64_t rows : {0, 1, 2, 3, 33}) {
        for (const int64_t element_bytes : {1, 2, 4, 8}) {
          for (int i = 0; i < 3; ++i) {
            ++seed;
            const auto columns = UnevenColumns(size, seed);
            RETURN_IF_ERROR(CheckAllGather(comm, rows, columns, element_bytes, seed));
          }
        }
      }
      // Rows that are longer than a buffer, and no column at all.
      RETURN_IF_ERROR(CheckAllGather(comm, 3, std::vector<int64_t>(size, 3001), 2, 90));
      return CheckAllGather(comm, 5, std::vector<int64_t>(size, 0), 4, 91);
    });
  }
}

TYPED_TEST(CommunicatorTest, BroadcastReachesEveryRankFromEveryRoot) {
  for (int size = 1; size <= 8; ++size) {
    RunGroup<TypeParam>(size, [size](Communicator& comm) {
      for (int root = 0; root < size; ++root) {
        for (const int64_t bytes : kCounts) {
          RETURN_IF_ERROR(CheckBroadcast(comm, bytes, root, 7));
        }
      }
      return absl::OkStatus();
    });
  }
}

TYPED_TEST(CommunicatorTest, MessagesArriveWhole) {
  for (int size = 2; size <= 8; ++size) {
    RunGroup<TypeParam>(size, [](Communicator& comm) {
      for (const int64_t bytes : kCounts) RETURN_IF_ERROR(CheckShift(comm, bytes, 5));
      return absl::OkStatus();
    });
  }
}

TYPED_TEST(CommunicatorTest, SmallMessagesAreTakenOverBeforeTheyAreReceived) {
  RunGroup<TypeParam>(2, [](Communicator& comm) {
    const int peer = 1 - comm.rank();
    for (uint32_t i = 0; i < 3; ++i) RETURN_IF_ERROR(comm.Send(Bytes(200, i), peer));
    for (uint32_t i = 0; i < 3; ++i) {
      std::vector<std::byte> data(200);
      RETURN_IF_ERROR(comm.Recv(absl::MakeSpan(data), peer));
      RETURN_IF_ERROR(Expect(SameBits(data, Bytes(200, i)), "wrong message"));
    }
    return absl::OkStatus();
  });
}

// Shared memory has the room that its options say, sockets what the system gives.
TEST(TcpCommunicatorTest, RanksMaySendInACircleBeforeAnyReceives) {
  constexpr int64_t kBytes = 24 << 20;  // more than sockets hold
  RunGroup<TcpBackend>(3, [](Communicator& comm) -> absl::Status {
    const int next = (comm.rank() + 1) % 3;
    const int before = (comm.rank() + 2) % 3;
    std::vector<std::byte> got(kBytes);
    for (int round = 0; round < 2; ++round) {
      RETURN_IF_ERROR(comm.Send(Bytes(kBytes, comm.rank()), next));
      RETURN_IF_ERROR(comm.Send(Bytes(7, comm.rank()), next));
      RETURN_IF_ERROR(comm.Recv(absl::MakeSpan(got), before));
      RETURN_IF_ERROR(Expect(SameBits(got, Bytes(kBytes, before)), "other bytes"));
      std::vector<std::byte> few(7);
      RETURN_IF_ERROR(comm.Recv(absl::MakeSpan(few), before));
      RETURN_IF_ERROR(Expect(SameBits(few, Bytes(7, before)), "other bytes"));
    }
    return absl::OkStatus();
  });
}

TYPED_TEST(CommunicatorTest, NobodyPassesABarrierBeforeAllHaveCome) {
  std::atomic<int> came = 0;
  RunGroup<TypeParam>(5, [&came](Communicator& comm) {
    for (int round = 1; round <= 200; ++round) {
      ++came;
      RETURN_IF_ERROR(comm.Barrier());
      RETURN_IF_ERROR(Expect(came >= round * comm.size(), "passed too early"));
      RETURN_IF_ERROR(comm.Barrier());
    }
    return absl::OkStatus();
  });
}

// Each rank dawdles at other places, so that every order of arrival comes up.
template <typename Backend>
void RunRandomOperations(int size, int count, uint32_t seed) {
  RunGroup<Backend>(size, [=](Communicator& comm) {
    std::mt19937 shared(seed);
    std::mt19937 own(seed * 1000 + static_cast<uint32_t>(comm.rank()));
    for (int i = 0; i < count; ++i) {
      const uint32_t draw = shared();
      const uint32_t kind = shared() % 6;
      const int64_t bytes = shared() % 3 == 0 ? shared() % 6000 : shared() % 300;
      for (uint32_t yields = own() % 8; yields > 0; --yields) sched_yield();
      absl::Status status;
      if (kind == 0) status = CheckAllReduce<float>(comm, bytes, draw);
      if (kind == 1) status = CheckAllReduce<int64_t>(comm, bytes, draw);
      if (kind == 2) status = CheckAllGather(comm, bytes % 9, UnevenColumns(size, draw), 4, draw);
      if (kind == 3) status = CheckBroadcast(comm, bytes, static_cast<int>(draw % size), draw);
      if (kind == 4 && size > 1) status = CheckShift(comm, bytes, draw);
      if (kind == 5) status = comm.Barrier();
      RETURN_IF_ERROR(status);
    }
    return absl::OkStatus();
  });
}

TYPED_TEST(CommunicatorTest, RanksMayArriveInAnyOrder) {
  for (const int size : {2, 3, 5, 8}) {
    RunRandomOperations<TypeParam>(size, 300, static_cast<uint32_t>(size));
  }
}

TYPED_TEST(CommunicatorTest, GroupsDoNotDisturbEachOther) {
  std::thread other([] { RunRandomOperations<TypeParam>(3, 400, 1); });
  RunRandomOperations<TypeParam>(3, 400, 2);
  other.join();
}

TYPED_TEST(CommunicatorTest, ARankMayBeOfTwoGroupsAtOnce) {
  TypeParam first(3);
  TypeParam second(3);
  const auto results = RunThreads(3, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(auto a, first.Join(rank));
    ASSIGN_OR_RETURN(auto b, second.Join(2 - rank));
    for (uint32_t i = 0; i < 100; ++i) {
      RETURN_IF_ERROR(CheckAllReduce<float>(*a, 300, i));
      RETURN_IF_ERROR(CheckBroadcast(*b, 300, static_cast<int>(i % 3), i));
      RETURN_IF_ERROR(CheckShift(*a, 100, i));
    }
    return absl::OkStatus();
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TYPED_TEST(CommunicatorTest, RanksMayBeProcesses) {
  TypeParam backend(4);
  RankProcesses ranks(4, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
    comm->set_timeout_ms(kPatienceMs);
    for (const int64_t count : kCounts) {
      RETURN_IF_ERROR(CheckAllReduce<float>(*comm, count, 1));
      RETURN_IF_ERROR(CheckAllGather(*comm, 3, UnevenColumns(4, 1), 4, 1));
      RETURN_IF_ERROR(CheckBroadcast(*comm, count, 2, 1));
      RETURN_IF_ERROR(CheckShift(*comm, count, 1));
    }
    return absl::OkStatus();
  });
  for (int rank = 0; rank < 4; ++rank) {
    const absl::Status result = ranks.Result(rank);
    EXPECT_TRUE(result.ok()) << result;
  }
}

// ---- Wrong use ---------------------------------------------------------------------------------

TYPED_TEST(CommunicatorTest, WrongParametersAreRefusedAndTheGroupGoesOn) {
  RunGroup<TypeParam>(2, [](Communicator& comm) {
    std::vector<std::byte> data(8);
    std::vector<int64_t> ends = {4, 8};
    const auto refused = [](const absl::Status& status) {
      return Expect(absl::IsInvalidArgument(status),
                    absl::StrCat("not refused: ", status.message()));
    };
    RETURN_IF_ERROR(refused(comm.Send(data, comm.rank())));
    RETURN_IF_ERROR(refused(comm.Send(data, 2)));
    RETURN_IF_ERROR(refused(comm.Recv(absl::MakeSpan(data), -1)));
    RETURN_IF_ERROR(refused(comm.Broadcast(absl::MakeSpan(data), 2)));
    RETURN_IF_ERROR(refused(comm.AllGatherColumns(data.data(), 1, 7, ends)));
    RETURN_IF_ERROR(refused(comm.AllGatherColumns(data.data(), -1, 8, ends)));
    RETURN_IF_ERROR(refused(comm.AllGatherColumns(data.data(), 1, 8, {8})));
    RETURN_IF_ERROR(refused(comm.AllGatherColumns(data.data(), 1, 8, {8, 4})));
    RETURN_IF_ERROR(refused(comm.AllGatherColumns(data.data(), 1, 8, {-1, 4})));
    return CheckAllReduce<float>(comm, 10, 1);
  });
}

// What a rank of a pair does, and what its peer does instead of the same.
using Call = absl::Status (*)(Communicator&);
absl::Status Reduce(Communicator& comm, int64_t count) {
  std::vector<float> data(count);
  return comm.AllReduceSum(absl::MakeSpan(data));
}
absl::Status Gather(Communicator& comm, int64_t columns) {
  std::vector<std::byte> row(columns * comm.size());
  std::vector<int64_t> ends;
  for (int rank = 0; rank < comm.size(); ++rank) ends.push_back(columns * (rank + 1));
  return comm.AllGatherColumns(row.data(), 1, ends.back(), ends);
}
absl::Status Cast(Communicator& comm, int64_t bytes, int root) {
  std::vector<std::byte> data(bytes);
  return comm.Broadcast(absl::MakeSpan(data), root);
}

TYPED_TEST(CommunicatorTest, RanksThatDisagreeFail) {
  const std::vector<std::pair<Call, Call>> pairs = {
      {[](Communicator& c) { return Reduce(c, 10); }, [](Communicator& c) { return Reduce(c, 9); }},
      {[](Communicator& c) { return Reduce(c, 10); },
       [](Communicator& c) { return Gather(c, 10); }},
      {[](Communicator& c) { return Gather(c, 9); }, [](Communicator& c) { return Gather(c, 10); }},
      {[](Communicator& c) { return Reduce(c, 0); }, [](Communicator& c) { return Cast(c, 0, 0); }},
      {[](Communicator& c) { return Cast(c, 8, 0); },
       [](Communicator& c) { return Cast(c, 9, 0); }},
      {[](Communicator& c) { return c.Send(std::vector<std::byte>(12), 1); },
       [](Communicator& c) {
         std::vector<std::byte> data(8);
         return c.Recv(absl::MakeSpan(data), 0);
       }},
  };
  for (size_t i = 0; i < pairs.size(); ++i) {
    TypeParam backend(2);
    const auto results = RunThreads(2, [&](int rank) -> absl::Status {
      ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
      comm->set_timeout_ms(kPatienceMs);
      const absl::Status status = rank == 0 ? pairs[i].first(*comm) : pairs[i].second(*comm);
      // A root or a sender may be done before the other one sees it.
      return status.ok() ? comm->Barrier() : status;
    });
    bool named = false;
    for (const absl::Status& result : results) {
      EXPECT_TRUE(absl::IsFailedPrecondition(result) || absl::IsAborted(result)) << i << result;
      named = named || absl::StrContains(result.message(), "this rank in");
    }
    EXPECT_TRUE(named) << i << ": " << results[0] << "; " << results[1];
  }
}

// ---- Failures ----------------------------------------------------------------------------------

// Operations of a group of three in which ranks 0 and 2 cannot go on without rank 1.
struct NamedCall {
  const char* name;
  Call call;
};
const NamedCall kBlockedByRank1[] = {
    {"all_reduce", [](Communicator& c) { return Reduce(c, 10); }},
    {"all_reduce", [](Communicator& c) { return Reduce(c, 1'000'000); }},
    {"all_gather", [](Communicator& c) { return Gather(c, 10); }},
    {"all_gather", [](Communicator& c) { return Gather(c, 1'000'000); }},
    {"broadcast", [](Communicator& c) { return Cast(c, 10, 1); }},
    {"broadcast", [](Communicator& c) { return Cast(c, 1'000'000, 1); }},
    {"recv",
     [](Communicator& c) {
       std::vector<std::byte> data(10);
       return c.Recv(absl::MakeSpan(data), 1);
     }},
    {"send",  // more than any backend takes over
     [](Communicator& c) { return c.Send(std::vector<std::byte>(16 << 20), 1); }},
    {"barrier", [](Communicator& c) { return c.Barrier(); }},
};

bool NamesRankAndOperation(const absl::Status& status, const char* operation) {
  return absl::StrContains(status.message(), "rank 1") &&
         absl::StrContains(status.message(), operation);
}

TYPED_TEST(CommunicatorTest, AKilledPeerEndsEveryOperation) {
  for (const bool during : {false, true}) {
    for (const NamedCall& blocked : kBlockedByRank1) {
      TypeParam backend(3);
      RankProcesses ranks(3, [&](int rank) -> absl::Status {
        ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
        comm->set_timeout_ms(kNoTimeout);  // so that only its death can end it
        RETURN_IF_ERROR(Reduce(*comm, 100));
        RankProcesses::Ready();
        if (rank == 1) {
          // The first part of a large operation, or nothing.
          if (!during) pause();
          comm->set_timeout_ms(kNoTimeout);
          (void)Gather(*comm, 3);
          pause();
        }
        if (during) RETURN_IF_ERROR(Gather(*comm, 3));
        return blocked.call(*comm);
      });
      for (int rank = 0; rank < 3; ++rank) ranks.AwaitReady(rank);
      ranks.Signal(1, SIGKILL);
      for (const int rank : {0, 2}) {
        const absl::Status result = ranks.Result(rank);
        EXPECT_TRUE(absl::IsUnavailable(result) || absl::IsAborted(result)) << result;
        EXPECT_TRUE(absl::StrContains(result.message(), "rank 1")) << blocked.name << result;
      }
    }
  }
}

TYPED_TEST(CommunicatorTest, AHungPeerEndsEveryOperationAtTheTimeout) {
  for (const NamedCall& blocked : kBlockedByRank1) {
    TypeParam backend(3);
    RankProcesses ranks(3, [&](int rank) -> absl::Status {
      ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
      RETURN_IF_ERROR(Reduce(*comm, 100));
      RankProcesses::Ready();
      if (rank == 1) pause();
      comm->set_timeout_ms(rank == 0 ? 100 : kNoTimeout);
      return blocked.call(*comm);
    });
    ranks.AwaitReady(1);
    ranks.Signal(1, SIGSTOP);
    const absl::Status late = ranks.Result(0);
    EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
    EXPECT_TRUE(NamesRankAndOperation(late, blocked.name)) << late;
    EXPECT_THAT(late.message(), HasSubstr("100 ms"));
    const absl::Status told = ranks.Result(2);
    EXPECT_TRUE(absl::IsAborted(told)) << told;
    EXPECT_TRUE(NamesRankAndOperation(told, blocked.name)) << told;
  }
}

TYPED_TEST(CommunicatorTest, AbortFromAnotherThreadEndsEveryOperation) {
  for (const NamedCall& blocked : kBlockedByRank1) {
    TypeParam backend(3);
    std::atomic<int> waiting = 0;
    const auto results = RunThreads(3, [&](int rank) -> absl::Status {
      ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
      if (rank == 1) {  // Comes to no operation before it is over.
        while (waiting < 3) sched_yield();
        return comm->Barrier();
      }
      if (rank == 2) {
        ++waiting;
        const absl::Status status = blocked.call(*comm);
        ++waiting;
        return status;
      }
      std::thread aborter([&] {
        while (waiting < 2) sched_yield();
        comm->Abort("told to");
        comm->Abort("told again");
      });
      ++waiting;
      const absl::Status status = blocked.call(*comm);
      aborter.join();
      return status;
    });
    for (const absl::Status& result : results) {
      EXPECT_TRUE(absl::IsAborted(result)) << blocked.name << ": " << result;
      EXPECT_THAT(result.message(), HasSubstr("told to"));
    }
  }
}

TYPED_TEST(CommunicatorTest, WhoWaitsElsewhereCanAskForItsPeers) {
  TypeParam left(2);
  std::atomic<bool> has_left = false;
  const auto results = RunThreads(2, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(auto comm, left.Join(rank));
    RETURN_IF_ERROR(comm->CheckPeers());
    RETURN_IF_ERROR(comm->Barrier());
    if (rank == 1) {
      comm = nullptr;
      has_left = true;
      return absl::OkStatus();
    }
    while (!has_left) sched_yield();
    absl::Status status;
    while (status.ok()) status = comm->CheckPeers();  // news may take a while
    return status;
  });
  EXPECT_TRUE(absl::IsUnavailable(results[0])) << results[0];
  EXPECT_THAT(results[0].message(), HasSubstr("rank 1"));
  EXPECT_THAT(results[0].message(), HasSubstr("left the group"));

  TypeParam aborted(2);
  const auto told = RunThreads(2, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(auto comm, aborted.Join(rank));
    if (rank == 1) comm->Abort("told to");
    absl::Status status;
    while (status.ok()) status = comm->CheckPeers();
    return status;
  });
  for (const absl::Status& result : told) {
    EXPECT_TRUE(absl::IsAborted(result)) << result;
    EXPECT_THAT(result.message(), HasSubstr("told to"));
  }
}

TYPED_TEST(CommunicatorTest, WhoWaitsElsewhereSeesThatAPeerDied) {
  TypeParam backend(2);
  RankProcesses ranks(2, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
    RankProcesses::Ready();
    if (rank == 1) pause();
    absl::Status status;
    while (status.ok()) status = comm->CheckPeers();
    return status;
  });
  for (int rank = 0; rank < 2; ++rank) ranks.AwaitReady(rank);
  ranks.Signal(1, SIGKILL);
  const absl::Status result = ranks.Result(0);
  EXPECT_TRUE(absl::IsUnavailable(result)) << result;
  EXPECT_THAT(result.message(), HasSubstr("rank 1"));
  EXPECT_THAT(result.message(), HasSubstr("died"));
}

TYPED_TEST(CommunicatorTest, AfterAFailureEveryOperationFailsTheSameWay) {
  TypeParam backend(2);
  std::atomic<bool> has_failed = false;
  const auto results = RunThreads(2, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
    if (rank == 1) {
      while (!has_failed) sched_yield();
      return comm->Barrier();
    }
    comm->set_timeout_ms(20);
    const absl::Status first = comm->Barrier();
    has_failed = true;
    comm->set_timeout_ms(kNoTimeout);
    RETURN_IF_ERROR(Expect(Reduce(*comm, 10) == first, "all_reduce"));
    RETURN_IF_ERROR(Expect(Gather(*comm, 10) == first, "all_gather"));
    RETURN_IF_ERROR(Expect(Cast(*comm, 10, 0) == first, "broadcast"));
    RETURN_IF_ERROR(Expect(comm->Send({}, 1) == first, "send"));
    RETURN_IF_ERROR(Expect(comm->Recv({}, 1) == first, "recv"));
    RETURN_IF_ERROR(Expect(comm->Barrier() == first, "barrier"));
    return first;
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(results[0])) << results[0];
  EXPECT_TRUE(absl::IsAborted(results[1])) << results[1];
}

TYPED_TEST(CommunicatorTest, WhatARankDidBeforeItLeftIsNotLost) {
  TypeParam backend(3);
  std::atomic<int> have_all = 0;
  const auto results = RunThreads(3, [&](int rank) -> absl::Status {
    ASSIGN_OR_RETURN(auto comm, backend.Join(rank));
    std::vector<std::byte> data = Bytes(300, 1);
    if (rank == 1) {
      RETURN_IF_ERROR(comm->Send(data, 0));
      RETURN_IF_ERROR(comm->Send(data, 2));
      return CheckBroadcast(*comm, 500, 1, 9);
    }
    for (int i = 0; i < 100; ++i) sched_yield();
    std::vector<std::byte> received(300);
    RETURN_IF_ERROR(comm->Recv(absl::MakeSpan(received), 1));
    RETURN_IF_ERROR(Expect(SameBits(received, data), "wrong message"));
    RETURN_IF_ERROR(CheckBroadcast(*comm, 500, 1, 9));
    ++have_all;
    while (have_all < 2) sched_yield();  // the first failure ends the group
    const absl::Status alone = comm->Recv(absl::MakeSpan(received), 1);
    RETURN_IF_ERROR(Expect(absl::IsUnavailable(alone) || absl::IsAborted(alone),
                           absl::StrCat("not seen to leave: ", alone.message())));
    return Expect(absl::StrContains(alone.message(), "left"), std::string(alone.message()));
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TYPED_TEST(CommunicatorTest, ARankThatDoesNotComeIsNamed) {
  TypeParam backend(4);
  const auto results = RunThreads(3, [&](int rank) -> absl::Status {
    return backend.Join(rank, rank == 0 ? 1000 : kPatienceMs).status();
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(results[0])) << results[0];
  for (const absl::Status& result : results) {
    EXPECT_FALSE(result.ok());
    EXPECT_THAT(result.message(), HasSubstr("rank 3 of 4 did not join"));
    EXPECT_THAT(result.message(), HasSubstr("within 1000 ms"));
  }
}

}  // namespace
}  // namespace paceline::worker
