#include "worker/comm/tcp_rendezvous.h"

#include <chrono>
#include <cstring>
#include <future>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/support/status_macros.h"
#include "tests/worker/comm/ranks.h"
#include "worker/comm/communicator.h"
#include "worker/comm/tcp_communicator.h"

namespace paceline::worker {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// A group on loopback; `listener` is rank 0's.
struct Group {
  explicit Group(int size, const std::string& host = "127.0.0.1")
      : listener(*ListenTcp(host, 0)),
        options{.size = size,
                .master_addr = host,
                .master_port = LocalEndpoint(listener).port,
                .group = "replica/7",
                .join_timeout_ms = 30'000} {}
  Socket listener;
  TcpOptions options;

  absl::StatusOr<TcpMesh> Join(int rank, const TcpOptions& with) {
    return JoinTcpMesh(with, rank, rank == 0 ? std::move(listener) : Socket());
  }
  // What a rank gets that joins alone, while nobody answers or rank 0 refuses.
  absl::Status JoinStatus(int rank, const TcpOptions& with) {
    return JoinTcpMesh(with, rank, Socket()).status();
  }
};

absl::Status Sum(TcpOptions options, int rank, Socket listener) {
  ASSIGN_OR_RETURN(auto comm, JoinTcpGroup(options, rank, std::move(listener)));
  std::vector<int32_t> data = {rank + 1};
  RETURN_IF_ERROR(comm->AllReduceSum(absl::MakeSpan(data)));
  const int32_t expected = options.size * (options.size + 1) / 2;
  return data[0] == expected ? absl::OkStatus() : absl::InternalError("wrong sum");
}

TEST(TcpRendezvousTest, RankZeroMayListenByItself) {
  Group group(3);
  group.listener = Socket();  // the port is free again
  const auto results = RunThreads(3, [&](int rank) { return Sum(group.options, rank, Socket()); });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TEST(TcpRendezvousTest, WorksByNameAndOnOtherAddresses) {
  for (const char* const host : {"localhost", "127.0.0.2"}) {
    Group group(3, host);
    const auto results = RunThreads(3, [&](int rank) {
      return Sum(group.options, rank, rank == 0 ? std::move(group.listener) : Socket());
    });
    for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << host << result;
  }
}

TEST(TcpRendezvousTest, AGroupOfOneNeedsNoConnection) {
  const auto mesh = JoinTcpMesh({.size = 1, .master_addr = "nowhere.invalid"}, 0, Socket());
  EXPECT_TRUE(mesh.ok()) << mesh.status();
}

TEST(TcpRendezvousTest, RefusesOptionsOutOfRange) {
  const auto code = [](const TcpOptions& options, int rank) {
    return JoinTcpMesh(options, rank, Socket()).status().code();
  };
  EXPECT_EQ(code({.size = 0}, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.size = kMaxCommRanks + 1}, 0), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.size = 2}, 2), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.size = 2}, -1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.size = 2, .group = std::string(128, 'x')}, 0),
            absl::StatusCode::kInvalidArgument);
}

TEST(TcpRendezvousTest, SaysThatRankZeroIsNotThere) {
  Group group(2);
  group.listener = Socket();
  group.options.join_timeout_ms = 100;
  const absl::Status status = group.JoinStatus(1, group.options);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              MatchesRegex("rank 0 cannot be reached at 127.0.0.1:[0-9]+ within 100 ms: "
                           "Connection refused"));
}

TEST(TcpRendezvousTest, NamesEveryRankThatIsMissing) {
  // More and more patient, until rank 2 is there in time.
  for (int64_t patience_ms = 250;; patience_ms *= 2) {
    Group group(4);
    auto second =
        std::async(std::launch::async, [&] { return group.JoinStatus(2, group.options); });
    TcpOptions impatient = group.options;
    impatient.join_timeout_ms = patience_ms;
    const absl::Status status = group.Join(0, impatient).status();
    const absl::Status told = second.get();
    if (absl::StrContains(status.message(), "rank 1, 2, 3 of 4") && patience_ms < 60'000) continue;
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                MatchesRegex(absl::StrCat(
                    "rank 1, 3 of 4 did not join 127.0.0.1:[0-9]+ within ", patience_ms, " ms")));
    EXPECT_EQ(told, status);
    break;
  }
}

TEST(TcpRendezvousTest, RankZeroSaysThatItsPortIsTaken) {
  Group group(2);
  const absl::Status status = group.JoinStatus(0, group.options);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("Address already in use"));
}

TEST(TcpRendezvousTest, WhoDoesNotBelongIsRefusedAndTheGroupForms) {
  Group group(2);
  auto leader = std::async(std::launch::async, [&] { return group.Join(0, group.options); });

  TcpOptions stale = group.options;
  stale.group = "replica/6";
  const absl::Status of_another_group = group.JoinStatus(1, stale);
  EXPECT_TRUE(absl::IsFailedPrecondition(of_another_group)) << of_another_group;

  TcpOptions larger = group.options;
  larger.size = 3;
  const absl::Status of_another_size = group.JoinStatus(2, larger);
  EXPECT_TRUE(absl::IsInvalidArgument(of_another_size)) << of_another_size;
  EXPECT_THAT(std::string(of_another_size.message()), HasSubstr("rank 2 of 3"));

  // One that says nothing, one that leaves at once, and one that talks about something else.
  const std::string& host = group.options.master_addr;
  const int port = group.options.master_port;
  const auto silent = ConnectTcp(host, port, DeadlineNs(10'000));
  ASSERT_TRUE(silent.ok());
  ASSERT_TRUE(ConnectTcp(host, port, DeadlineNs(10'000)).ok());
  const auto http = ConnectTcp(host, port, DeadlineNs(10'000));
  const std::string request(1000, 'G');
  ASSERT_TRUE(WriteAll(*http, request.data(), request.size(), DeadlineNs(10'000)).ok());

  const absl::Status joined = group.JoinStatus(1, group.options);
  EXPECT_TRUE(joined.ok()) << joined;
  EXPECT_TRUE(leader.get().ok());
}

TEST(TcpRendezvousTest, OnlyWhoKnowsATokenJoins) {
  Group group(2);
  group.options.tokens = {"secret"};
  auto leader = std::async(std::launch::async, [&] { return group.Join(0, group.options); });
  for (const std::vector<std::string>& tokens :
       {std::vector<std::string>(), {"guess"}, {"guess", "secret"}}) {
    TcpOptions stranger = group.options;
    stranger.tokens = tokens;
    const absl::Status refused = group.JoinStatus(1, stranger);
    EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr("does not take this rank's token"));
  }
  const absl::Status joined = group.JoinStatus(1, group.options);
  EXPECT_TRUE(joined.ok()) << joined;
  EXPECT_TRUE(leader.get().ok());
}

TEST(TcpRendezvousTest, ATokenRotatesRankByRank) {
  Group group(3);
  const std::vector<std::vector<std::string>> tokens = {
      {"old", "new"}, {"new", "old"}, {"old", "new"}};
  const auto results = RunThreads(3, [&](int rank) {
    TcpOptions options = group.options;
    options.tokens = tokens[rank];
    return Sum(options, rank, rank == 0 ? std::move(group.listener) : Socket());
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

// A stranger at rank 0's address that says yes to everything: it cannot prove the token.
TEST(TcpRendezvousTest, ARankJoinsNoLeaderThatDoesNotKnowItsToken) {
  constexpr size_t kChallenge = 40;
  constexpr size_t kHello = 224;
  constexpr size_t kAnswer = 248 + 2 * 68 + 32;  // with two places and a proof
  Group group(2);
  auto rank = std::async(std::launch::async, [&] {
    TcpOptions options = group.options;
    options.tokens = {"secret"};
    return group.JoinStatus(1, options);
  });
  Socket joiner;
  while (!joiner.is_open()) joiner = AcceptTcp(group.listener);
  std::string challenge(kChallenge, 'n');
  const uint64_t magic = 0x5061636554637032;
  std::memcpy(challenge.data(), &magic, sizeof(magic));
  std::string hello(kHello, '\0');
  const std::string answer(kAnswer, '\0');
  const int64_t deadline_ns = DeadlineNs(10'000);
  ASSERT_TRUE(WriteAll(joiner, challenge.data(), challenge.size(), deadline_ns).ok());
  ASSERT_TRUE(ReadAll(joiner, hello.data(), hello.size(), deadline_ns).ok());
  EXPECT_EQ(hello.find("secret"), std::string::npos);
  ASSERT_TRUE(WriteAll(joiner, answer.data(), answer.size(), deadline_ns).ok());
  const absl::Status status = rank.get();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not prove"));
}

TEST(TcpRendezvousTest, ARankJoinsOnce) {
  Group group(3);
  auto leader = std::async(std::launch::async, [&] { return group.Join(0, group.options); });
  // Whichever comes second is refused; the other one waits for rank 2.
  std::vector<std::future<absl::Status>> twins;
  for (int i = 0; i < 2; ++i) {
    twins.push_back(
        std::async(std::launch::async, [&] { return group.JoinStatus(1, group.options); }));
  }
  int refused = 0;
  while (refused == 0) {
    for (auto& twin : twins) {
      if (twin.wait_for(std::chrono::milliseconds(1)) != std::future_status::ready) continue;
      const absl::Status status = twin.get();
      EXPECT_TRUE(absl::IsAlreadyExists(status)) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr("rank 1 has joined already"));
      ++refused;
      std::swap(twin, twins.back());
      break;
    }
  }
  EXPECT_TRUE(group.JoinStatus(2, group.options).ok());
  EXPECT_TRUE(twins.front().get().ok());
  EXPECT_TRUE(leader.get().ok());
}

TEST(TcpRendezvousTest, ARankThatGaveUpMayComeAgain) {
  Group group(3);
  // Rank 1 has said who it is, and is gone, before rank 0 looks.
  TcpOptions impatient = group.options;
  impatient.join_timeout_ms = 200;
  const absl::Status status = group.JoinStatus(1, impatient);
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("does not answer"));
  const auto results = RunThreads(3, [&](int rank) {
    return Sum(group.options, rank, rank == 0 ? std::move(group.listener) : Socket());
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

}  // namespace
}  // namespace paceline::worker
