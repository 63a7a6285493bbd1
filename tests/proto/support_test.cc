#include <memory>
#include <sstream>
#include <string>

#include "grpcpp/support/status.h"
#include "gtest/gtest.h"
#include "proto/support/clock.h"
#include "proto/support/log_format.h"
#include "proto/support/status_grpc.h"
#include "proto/support/status_macros.h"
#include "proto/support/trace.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"

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
  EXPECT_EQ(TraceIdOf(good), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(ParentIdOf(good), "b7ad6b7169203331");
  EXPECT_TRUE(IsSampled(good));
  EXPECT_TRUE(IsSampled("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff"));
  EXPECT_FALSE(IsSampled("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0e"));
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

TEST(TraceTest, MakesWhatItKnows) {
  const std::string trace = NewTraceId();
  const std::string span = NewSpanId();
  const std::string text = MakeTraceparent(trace, span, false);
  EXPECT_TRUE(IsValidTraceparent(text));
  EXPECT_EQ(TraceIdOf(text), trace);
  EXPECT_EQ(ParentIdOf(text), span);
  EXPECT_FALSE(IsSampled(text));
  EXPECT_NE(span, NewSpanId());
}

// What one line says, logged with `pattern`.
std::string Line(const std::string& pattern, const std::string& message) {
  std::ostringstream text;
  spdlog::logger logger("test", std::make_shared<spdlog::sinks::ostream_sink_st>(text));
  logger.set_formatter(MakeLogFormatter(pattern));
  logger.info("{}", message);
  return text.str();
}

constexpr char kTrace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(LogFormatTest, ARequestIsPartOfTheLine) {
  const std::string json = R"({"pid":1%?,"message":"%*"})";
  EXPECT_EQ(Line(json, "m"), "{\"pid\":1,\"message\":\"m\"}\n");
  const LogRequest outer("a\"b", kTrace);
  EXPECT_EQ(Line(json, "m"),
            R"({"pid":1,"request_id":"a\"b","trace_id":"0af7651916cd43dd8448eb211c80319c",)"
            R"("span_id":"b7ad6b7169203331","message":"m"})"
            "\n");
  EXPECT_EQ(Line("%v%~", "m"), "m trace_id=0af7651916cd43dd8448eb211c80319c\n");
  {
    const LogRequest inner("c", "");
    EXPECT_EQ(Line(json, "m"), "{\"pid\":1,\"request_id\":\"c\",\"message\":\"m\"}\n");
    EXPECT_EQ(Line("%v%~", "m"), "m\n");
  }
  EXPECT_EQ(Line("%v%~", "m"), "m trace_id=0af7651916cd43dd8448eb211c80319c\n");
}

TEST(LogFormatTest, NoBytesBreakAJsonLine) {
  EXPECT_EQ(Line("%*", "a\n\"\\\x01\x7f"), "a\\u000a\\\"\\\\\\u0001\\u007f\n");
  EXPECT_EQ(Line("%*", "\u00e9\u20ac\U0001f600"), "\u00e9\u20ac\U0001f600\n");
  // A lone continuation, an overlong form, a surrogate, beyond Unicode, and one that is cut off.
  for (const char* bad : {"\x80", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"}) {
    const std::string line = Line("%*", bad);
    for (size_t i = 0; i + 1 < line.size(); ++i) EXPECT_LT(line[i], 0x7f) << bad;
    EXPECT_EQ(line.substr(0, 6), "\\ufffd") << bad;
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
