#include "grpcpp/support/status.h"
#include "gtest/gtest.h"
#include "proto/support/clock.h"
#include "proto/support/status_grpc.h"
#include "proto/support/status_macros.h"
#include "proto/support/trace.h"

namespace paceline {
namespace {

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("odd");
  return x / 2;
}

absl::StatusOr<int> Quarter(int x) {
  ASSIGN_OR_RETURN(const int half, Half(x));
  ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(StatusMacrosTest, AssignOrReturnPassesValuesAndErrors) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(Quarter(6).status(), absl::InvalidArgumentError("odd"));
}

TEST(StatusGrpcTest, EveryCodeSurvivesTheRoundTrip) {
  for (int code = 0; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), code == 0 ? "" : "text");
    EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status) << code;
  }
}

TEST(StatusGrpcTest, HttpCodesFollowTheContract) {
  EXPECT_EQ(HttpStatusCode(absl::StatusCode::kInvalidArgument), 400);
  EXPECT_EQ(HttpStatusCode(absl::StatusCode::kUnauthenticated), 401);
  EXPECT_EQ(HttpStatusCode(absl::StatusCode::kResourceExhausted), 429);
  EXPECT_EQ(HttpStatusCode(absl::StatusCode::kUnavailable), 503);
  EXPECT_EQ(HttpStatusCode(absl::StatusCode::kDeadlineExceeded), 504);
  EXPECT_EQ(HttpStatusCode(absl::StatusCode::kUnimplemented), 501);
  EXPECT_EQ(HttpStatusCode(absl::StatusCode::kDataLoss), 500);
}

TEST(StatusGrpcTest, HttpStatusesHaveOneCodeEach) {
  for (const absl::StatusCode code : {absl::StatusCode::kOk,
                                      absl::StatusCode::kInvalidArgument,
                                      absl::StatusCode::kUnauthenticated,
                                      absl::StatusCode::kPermissionDenied,
                                      absl::StatusCode::kNotFound,
                                      absl::StatusCode::kResourceExhausted,
                                      absl::StatusCode::kCancelled,
                                      absl::StatusCode::kInternal,
                                      absl::StatusCode::kUnimplemented,
                                      absl::StatusCode::kUnavailable,
                                      absl::StatusCode::kDeadlineExceeded}) {
    EXPECT_EQ(StatusCodeOfHttp(HttpStatusCode(code)), code);
  }
  for (const int status : {405, 408, 413, 414, 415, 417, 431, 505}) {
    EXPECT_EQ(StatusCodeOfHttp(status), absl::StatusCode::kInvalidArgument) << status;
  }
  EXPECT_EQ(StatusCodeOfHttp(502), absl::StatusCode::kInternal);
}

TEST(TraceTest, KnowsATraceparent) {
  const std::string good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_TRUE(IsValidTraceparent(good));
  EXPECT_EQ(TraceNote(good), " trace_id=0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(TraceNote(""), "");
  for (const char* bad : {"",
                          "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                          "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
                          "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
                          "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\n-01",
                          "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                          "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                          "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                          "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"}) {
    EXPECT_FALSE(IsValidTraceparent(bad)) << bad;
  }
}

TEST(ClockTest, FakeClockMovesOnlyWhenTold) {
  FakeClock clock;
  const int64_t start = clock.NowMs();
  EXPECT_EQ(clock.NowMs(), start);
  clock.AdvanceMs(1500);
  EXPECT_EQ(clock.NowMs(), start + 1500);
}

}  // namespace
}  // namespace paceline
