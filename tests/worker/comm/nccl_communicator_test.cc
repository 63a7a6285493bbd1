// What communicator_test.cc asks of every backend, as far as NCCL's operations and what it can know
// go, with a false library. What a GPU does late is a done() that says so.
#include "worker/comm/nccl_communicator.h"

#include <sched.h>
#include <signal.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
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

constexpr int64_t kPatienceMs = 30'000;

// While it lives the false library is as the environment says.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }

 private:
  const char* const name_;
};

struct Rank {
  std::unique_ptr<Communicator> control;
  std::unique_ptr<NcclSession> session;
  NcclCommunicator* comm = nullptr;
};

using ControlOr = absl::StatusOr<std::unique_ptr<Communicator>>;

// The first rank makes the id, and all get it from their hosts' communicator.
absl::StatusOr<NcclCommunicator*> JoinSession(NcclSession& session, Communicator& control) {
  NcclUniqueId id = {};
  if (control.rank() == 0) {
    ASSIGN_OR_RETURN(id, session.MakeId());
  }
  RETURN_IF_ERROR(control.Broadcast({reinterpret_cast<std::byte*>(&id), sizeof(id)}, 0));
  return session.Join(id, control.rank(), control.size());
}

absl::StatusOr<Rank> Join(ControlOr control, int64_t timeout_ms = kPatienceMs) {
  RETURN_IF_ERROR(control.status());
  Rank rank{.control = *std::move(control)};
  ASSIGN_OR_RETURN(auto library, NcclLibrary::Load(FAKE_NCCL));
  rank.session = std::make_unique<NcclSession>(std::move(library), *rank.control, timeout_ms);
  ASSIGN_OR_RETURN(rank.comm, JoinSession(*rank.session, *rank.control));
  rank.control->set_timeout_ms(kPatienceMs);
  return rank;
}

struct ShmControl {
  explicit ShmControl(int size) : group(*ShmGroup::Create({.size = size})) {}
  ControlOr Join(int rank) { return JoinShmGroup(group, rank, {}); }
  std::shared_ptr<ShmGroup> group;
};

struct TcpControl {
  explicit TcpControl(int size)
      : listener(*ListenTcp("127.0.0.1", 0)),
        options{.size = size,
                .master_addr = "127.0.0.1",
                .master_port = LocalEndpoint(listener).port,
                .group = "test"} {}
  ControlOr Join(int rank) {
    return JoinTcpGroup(options, rank, Socket(rank == 0 ? dup(listener.fd()) : -1));
  }
  const Socket listener;
  const TcpOptions options;
};

absl::Status Expect(bool condition, const std::string& text) {
  return condition ? absl::OkStatus() : absl::InternalError(text);
}

std::vector<char> Bytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<char> bytes(count);
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

absl::Status Gather(NcclCommunicator& comm, int64_t bytes, uint32_t seed, bool in_place) {
  std::vector<char> own = Bytes(bytes, seed * 100 + comm.rank());
  std::vector<char> pieces(comm.size() * bytes);
  char* const place = pieces.data() + comm.rank() * bytes;
  if (in_place) std::copy(own.begin(), own.end(), place);
  RETURN_IF_ERROR(
      comm.AllGather(in_place ? place : own.data(), pieces.data(), bytes, /*stream=*/nullptr));
  std::vector<char> expected;
  for (int rank = 0; rank < comm.size(); ++rank) {
    const std::vector<char> part = Bytes(bytes, seed * 100 + rank);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  return Expect(pieces == expected, absl::StrCat("wrong gather of ", bytes));
}

absl::Status Reduce(NcclCommunicator& comm, int64_t count, uint32_t seed) {
  std::vector<int32_t> data(count);
  std::vector<uint32_t> expected(count);
  for (int rank = 0; rank < comm.size(); ++rank) {
    std::mt19937 random(seed * 100 + rank);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t value = random();
      expected[i] += value;
      if (rank == comm.rank()) data[i] = static_cast<int32_t>(value);
    }
  }
  RETURN_IF_ERROR(comm.AllReduceSum(data.data(), count, /*stream=*/nullptr));
  return Expect(std::equal(data.begin(),
                           data.end(),
                           expected.begin(),
                           [](int32_t a, uint32_t b) { return static_cast<uint32_t>(a) == b; }),
                absl::StrCat("wrong sum of ", count));
}

absl::Status Shift(NcclCommunicator& comm, int64_t bytes, uint32_t seed) {
  const int next = (comm.rank() + 1) % comm.size();
  const int previous = (comm.rank() + comm.size() - 1) % comm.size();
  const std::vector<char> sent = Bytes(bytes, seed * 100 + comm.rank());
  std::vector<char> received(bytes);
  const auto receive = [&] { return comm.Recv(received.data(), bytes, previous, nullptr); };
  if (comm.rank() != 0) RETURN_IF_ERROR(receive());
  RETURN_IF_ERROR(comm.Send(sent.data(), bytes, next, nullptr));
  if (comm.rank() == 0) RETURN_IF_ERROR(receive());
  return Expect(received == Bytes(bytes, seed * 100 + previous), "wrong message");
}

template <typename Control>
class NcclCommunicatorTest : public ::testing::Test {};

using Controls = ::testing::Types<ShmControl, TcpControl>;
TYPED_TEST_SUITE(NcclCommunicatorTest, Controls);

// ---- Operations --------------------------------------------------------------------------------

TYPED_TEST(NcclCommunicatorTest, OperationsPutBytesWhereTheyBelong) {
  for (int size = 2; size <= 5; ++size) {
    TypeParam control(size);
    const auto results = RunThreads(size, [&](int number) -> absl::Status {
      ASSIGN_OR_RETURN(const Rank rank, Join(control.Join(number)));
      for (const int64_t count : {1, 3, 64, 577, 40'000}) {
        RETURN_IF_ERROR(Gather(*rank.comm, count, 1, /*in_place=*/true));
        RETURN_IF_ERROR(Gather(*rank.comm, count, 2, /*in_place=*/false));
        RETURN_IF_ERROR(Reduce(*rank.comm, count, 3));
        RETURN_IF_ERROR(Shift(*rank.comm, count, 4));
      }
      return rank.control->Barrier();
    });
    for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
  }
}

TYPED_TEST(NcclCommunicatorTest, RanksMayArriveInAnyOrder) {
  TypeParam control(3);
  const auto results = RunThreads(3, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(const Rank rank, Join(control.Join(number)));
    std::mt19937 shared(7);
    std::mt19937 own(number);
    for (int i = 0; i < 100; ++i) {
      const uint32_t kind = shared() % 3;
      const int64_t count = shared() % 300;
      for (uint32_t yields = own() % 8; yields > 0; --yields) sched_yield();
      if (kind == 0) RETURN_IF_ERROR(Gather(*rank.comm, count, i, true));
      if (kind == 1) RETURN_IF_ERROR(Reduce(*rank.comm, count, i));
      if (kind == 2) RETURN_IF_ERROR(Shift(*rank.comm, count, i));
    }
    return rank.control->Barrier();
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TYPED_TEST(NcclCommunicatorTest, ASessionMayHaveSeveralGroups) {
  TypeParam control(3);
  const auto results = RunThreads(3, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(const Rank rank, Join(control.Join(number)));
    ASSIGN_OR_RETURN(NcclCommunicator* const other, JoinSession(*rank.session, *rank.control));
    for (int i = 0; i < 20; ++i) {
      RETURN_IF_ERROR(Gather(*rank.comm, 300, i, true));
      RETURN_IF_ERROR(Shift(*other, 100, i));
    }
    return rank.control->Barrier();
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TYPED_TEST(NcclCommunicatorTest, RanksMayBeProcesses) {
  TypeParam control(3);
  RankProcesses ranks(3, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(const Rank rank, Join(control.Join(number)));
    for (int i = 0; i < 20; ++i) {
      RETURN_IF_ERROR(Gather(*rank.comm, 3000, i, true));
      RETURN_IF_ERROR(Reduce(*rank.comm, 100'000, i));
      RETURN_IF_ERROR(Shift(*rank.comm, 100'000, i));
    }
    return rank.control->Barrier();
  });
  for (int rank = 0; rank < 3; ++rank) EXPECT_TRUE(ranks.Result(rank).ok()) << ranks.Result(rank);
}

// ---- Failures ----------------------------------------------------------------------------------

// What ranks 0 and 2 of three cannot do without rank 1.
struct NamedCall {
  const char* name;
  absl::Status (*call)(Rank&);
};
const NamedCall kBlockedByRank1[] = {
    {"all_gather", [](Rank& r) { return Gather(*r.comm, 10, 1, true); }},
    {"all_gather", [](Rank& r) { return Gather(*r.comm, 1'000'000, 1, true); }},
    {"all_reduce", [](Rank& r) { return Reduce(*r.comm, 10, 1); }},
    {"recv",
     [](Rank& r) {
       std::vector<char> data(10);
       return r.comm->Recv(data.data(), 10, 1, nullptr);
     }},
    {"send",  // more than the false library takes over
     [](Rank& r) {
       const std::vector<char> data(1'000'000);
       return r.comm->Send(data.data(), 1'000'000, 1, nullptr);
     }},
    {"step", [](Rank& r) { return r.session->Await("step", [] { return false; }); }},
};

bool IsAboutRank1(const absl::Status& status, const char* operation) {
  return absl::StrContains(status.message(), "rank 1") &&
         absl::StrContains(status.message(), absl::StrCat("NCCL ", operation));
}

TYPED_TEST(NcclCommunicatorTest, AKilledPeerEndsEveryOperation) {
  for (const NamedCall& blocked : kBlockedByRank1) {
    TypeParam control(3);
    RankProcesses ranks(3, [&](int number) -> absl::Status {
      ASSIGN_OR_RETURN(Rank rank, Join(control.Join(number)));
      rank.control->set_timeout_ms(kNoTimeout);  // so that only its death can end it
      RankProcesses::Ready();
      if (number == 1) pause();
      return blocked.call(rank);
    });
    for (int rank = 0; rank < 3; ++rank) ranks.AwaitReady(rank);
    ranks.Signal(1, SIGKILL);
    for (const int rank : {0, 2}) {
      const absl::Status result = ranks.Result(rank);
      EXPECT_TRUE(absl::IsUnavailable(result) || absl::IsAborted(result)) << result;
      EXPECT_TRUE(IsAboutRank1(result, blocked.name)) << result;
    }
  }
}

TYPED_TEST(NcclCommunicatorTest, AHungPeerEndsEveryOperationAtTheTimeout) {
  for (const NamedCall& blocked : kBlockedByRank1) {
    TypeParam control(3);
    RankProcesses ranks(3, [&](int number) -> absl::Status {
      ASSIGN_OR_RETURN(Rank rank, Join(control.Join(number), number == 0 ? 100 : kPatienceMs));
      RankProcesses::Ready();
      if (number == 1) pause();
      return blocked.call(rank);
    });
    for (int rank = 0; rank < 3; ++rank) ranks.AwaitReady(rank);
    ranks.Signal(1, SIGSTOP);
    const absl::Status late = ranks.Result(0);
    EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
    EXPECT_THAT(late.message(), HasSubstr(absl::StrCat("rank 0: NCCL ", blocked.name)));
    EXPECT_THAT(late.message(), HasSubstr("100 ms"));
    const absl::Status told = ranks.Result(2);
    EXPECT_TRUE(absl::IsAborted(told)) << told;
    EXPECT_THAT(told.message(), HasSubstr(std::string(late.message())));
  }
}

TYPED_TEST(NcclCommunicatorTest, AbortFromAnotherThreadEndsEveryOperation) {
  for (const NamedCall& blocked : kBlockedByRank1) {
    TypeParam control(3);
    std::atomic<int> waiting = 0;
    const auto results = RunThreads(3, [&](int number) -> absl::Status {
      ASSIGN_OR_RETURN(Rank rank, Join(control.Join(number)));
      if (number == 1) {  // comes to no operation before it is over
        while (waiting < 3) sched_yield();
        return rank.session->Await("step", [] { return false; });
      }
      std::thread aborter([&] {
        while (number == 0 && waiting < 2) sched_yield();
        if (number != 0) return;
        rank.session->Abort("told to");
        rank.session->Abort("told again");
      });
      ++waiting;
      const absl::Status status = blocked.call(rank);
      ++waiting;
      aborter.join();
      return status;
    });
    for (const absl::Status& result : results) {
      EXPECT_TRUE(absl::IsAborted(result)) << blocked.name << ": " << result;
      EXPECT_THAT(result.message(), HasSubstr("told to"));
    }
  }
}

TYPED_TEST(NcclCommunicatorTest, AnErrorThatNcclMeetsLaterEndsTheGroup) {
  TypeParam control(2);
  std::atomic<int> joined = 0;
  const auto results = RunThreads(2, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(Rank rank, Join(control.Join(number)));
    ++joined;
    while (joined < 2) sched_yield();
    if (number == 1) return rank.control->Barrier();
    const Environment error("FAKE_NCCL_ASYNC_ERROR", "6");
    const absl::Status status = rank.session->Await("step", [] { return false; });
    EXPECT_EQ(Gather(*rank.comm, 10, 1, true), status) << "afterwards";
    EXPECT_EQ(rank.session->Await("step", [] { return true; }), status) << "afterwards";
    return status;
  });
  EXPECT_TRUE(absl::IsUnavailable(results[0])) << results[0];
  EXPECT_THAT(results[0].message(), HasSubstr("remote process exited"));
  EXPECT_THAT(results[0].message(), HasSubstr("said by the fake"));
  EXPECT_TRUE(absl::IsAborted(results[1])) << results[1];
}

TYPED_TEST(NcclCommunicatorTest, AFailureOfTheDeviceEndsTheGroup) {
  TypeParam control(2);
  const auto results = RunThreads(2, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(Rank rank, Join(control.Join(number)));
    if (number == 1) return rank.session->Await("step", [] { return false; });
    return rank.session->Await("step", [] { return absl::UnavailableError("the device failed"); });
  });
  EXPECT_TRUE(absl::IsUnavailable(results[0])) << results[0];
  EXPECT_TRUE(absl::IsAborted(results[1])) << results[1];
  EXPECT_THAT(results[1].message(), HasSubstr("the device failed"));
}

// A rank fails while it loads, when nobody has a time-out yet.
TYPED_TEST(NcclCommunicatorTest, ARankThatLeavesInsteadOfJoiningIsNamed) {
  TypeParam control(2);
  const auto results = RunThreads(2, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(auto host, control.Join(number));
    ASSIGN_OR_RETURN(auto library, NcclLibrary::Load(FAKE_NCCL));
    NcclSession session(std::move(library), *host);
    if (number == 1) return absl::OkStatus();
    ASSIGN_OR_RETURN(const NcclUniqueId id, session.MakeId());
    return session.Join(id, 0, 2).status();
  });
  EXPECT_TRUE(absl::IsUnavailable(results[0])) << results[0];
  EXPECT_TRUE(IsAboutRank1(results[0], "join")) << results[0];
}

TYPED_TEST(NcclCommunicatorTest, WhatARankDidBeforeItLeftIsNotLost) {
  TypeParam control(2);
  std::atomic<bool> has_left = false;
  const auto results = RunThreads(2, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(auto rank, Join(control.Join(number)));
    if (number == 1) {
      const std::vector<char> sent = Bytes(100, 1);
      RETURN_IF_ERROR(rank.comm->Send(sent.data(), 100, 0, nullptr));
      rank = {};
      has_left = true;
      return absl::OkStatus();
    }
    while (!has_left) sched_yield();
    std::vector<char> received(100);
    RETURN_IF_ERROR(rank.comm->Recv(received.data(), 100, 1, nullptr));
    return Expect(received == Bytes(100, 1), "wrong message");
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TEST(NcclCommunicatorTest, WhatNcclDoesNotTakeIsInternal) {
  ShmControl control(2);
  const auto results = RunThreads(2, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(const Rank rank, Join(control.Join(number)));
    if (number == 1) return rank.control->Barrier();
    char byte = 0;
    return rank.comm->Send(&byte, 1, /*to=*/0, nullptr);
  });
  EXPECT_TRUE(absl::IsInternal(results[0])) << results[0];
  EXPECT_TRUE(absl::IsAborted(results[1])) << results[1];
}

// ---- The library -------------------------------------------------------------------------------

TEST(NcclLibraryTest, SaysItsVersion) {
  const auto library = NcclLibrary::Load(FAKE_NCCL);
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_EQ((*library)->version, "2.28.9");
}

TEST(NcclLibraryTest, SaysWhatIsMissing) {
  const absl::Status none = NcclLibrary::Load("libno_such_nccl.so.2").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(none)) << none;
  EXPECT_THAT(none.message(), HasSubstr("libno_such_nccl.so.2"));
  EXPECT_THAT(none.message(), HasSubstr("2.18"));
  const absl::Status other = NcclLibrary::Load("libc.so.6").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(other)) << other;
  EXPECT_THAT(other.message(), HasSubstr("ncclGetVersion"));
  const Environment old("FAKE_NCCL_VERSION", "21705");
  const absl::Status too_old = NcclLibrary::Load(FAKE_NCCL).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(too_old)) << too_old;
  EXPECT_THAT(too_old.message(), HasSubstr("is NCCL 2.17.5; 2.18 or newer is needed"));
}

}  // namespace
}  // namespace paceline::worker
