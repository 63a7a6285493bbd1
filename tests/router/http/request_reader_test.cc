#include "router/http/request_reader.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace paceline::router {
namespace {

using State = RequestReader::State;

// What a connection would see of `bytes` that arrive in pieces of the given sizes: every request
// and the status of the error that ends them, if one does.
std::string TraceOf(const std::string& bytes, const std::vector<size_t>& pieces) {
  RequestReader reader{ReaderLimits{}};
  std::string trace;
  std::string buffer;
  size_t at = 0;
  size_t piece = 0;
  while (at < bytes.size()) {
    const size_t count = std::min(bytes.size() - at, pieces[piece++ % pieces.size()]);
    buffer.append(bytes, at, count);
    at += count;
    while (!buffer.empty()) {
      const size_t consumed = reader.Feed(buffer);
      buffer.erase(0, consumed);
      if (reader.state() == State::kError) {
        return trace + "error " + std::to_string(reader.error_status());
      }
      if (reader.state() == State::kHeadDone) {
        reader.ReadBody();
        trace += reader.head().method + " " + reader.head().target + "; ";
      }
      if (reader.state() == State::kDone) {
        trace += "body '" + reader.Take().body + "'; ";
      } else if (consumed == 0) {
        break;
      }
    }
  }
  return trace + (reader.empty() ? "complete" : "incomplete");
}

std::string TraceOf(const std::string& bytes) { return TraceOf(bytes, {bytes.size() + 1}); }

std::string Get(const std::string& headers = "") {
  return "GET /health HTTP/1.1\r\nHost: a\r\n" + headers + "\r\n";
}
std::string Post(const std::string& headers, const std::string& body = "") {
  return "POST /x HTTP/1.1\r\nHost: a\r\n" + headers + "\r\n" + body;
}
std::string Chunked(const std::string& body) {
  return Post("Transfer-Encoding: chunked\r\n", body);
}

TEST(RequestReaderTest, ReadsRequestsOneAfterAnother) {
  EXPECT_EQ(TraceOf(Get() + Post("Content-Length: 3\r\n", "abc") +
                    Chunked("2\r\nab\r\n1;x=y\r\nc\r\n0\r\nTrailer: t\r\n\r\n") + "\r\n" + Get()),
            "GET /health; body ''; POST /x; body 'abc'; POST /x; body 'abc'; GET /health; body ''; "
            "complete");
}

TEST(RequestReaderTest, LowersHeaderNamesAndKeepsValues) {
  RequestReader reader{ReaderLimits{}};
  reader.Feed(Get("X-Request-Id:  A b \r\nTwice: 1\r\ntwice: 2\r\n"));
  ASSERT_EQ(reader.state(), State::kHeadDone);
  EXPECT_EQ(reader.head().Header("x-request-id"), "A b");
  EXPECT_EQ(reader.head().Header("twice"), std::nullopt);
  EXPECT_EQ(reader.head().CountOf("twice"), 2u);
  EXPECT_TRUE(reader.head().keep_alive);
}

TEST(RequestReaderTest, KnowsWhoWantsToStay) {
  const auto keep_alive = [](const std::string& bytes) {
    RequestReader reader{ReaderLimits{}};
    reader.Feed(bytes);
    return reader.head().keep_alive;
  };
  EXPECT_FALSE(keep_alive(Get("Connection: close\r\n")));
  EXPECT_FALSE(keep_alive("GET / HTTP/1.0\r\n\r\n"));
  EXPECT_TRUE(keep_alive("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
}

struct BadInput {
  const char* what;
  std::string bytes;
  int status;
};

std::vector<BadInput> BadInputs() {
  const std::string fields_101 = [] {
    std::string fields;
    for (int i = 0; i < 100; ++i) fields += "a: b\r\n";  // with Host: 101
    return fields;
  }();
  return {
      {"64 KiB request line", "GET /" + std::string(64 << 10, 'a') + " HTTP/1.1\r\n\r\n", 414},
      {"head of 16 KiB and one", Get("a: " + std::string(16 << 10, 'b') + "\r\n"), 431},
      {"101 fields", Get(fields_101), 431},
      {"huge length", Post("Content-Length: 10737418240\r\n"), 413},
      {"length 2^63", Post("Content-Length: 9223372036854775808\r\n"), 413},
      {"length 2^64", Post("Content-Length: 18446744073709551616\r\n"), 413},
      {"4 MiB and one", Post("Content-Length: 4194305\r\n"), 413},
      {"negative length", Post("Content-Length: -1\r\n"), 400},
      {"signed length", Post("Content-Length: +5\r\n"), 400},
      {"list of lengths", Post("Content-Length: 5,5\r\n"), 400},
      {"lengths with a space between", Post("Content-Length: 5 5\r\n"), 400},
      {"length 2^64 and a space", Post("Content-Length: 18446744073709551616 \r\n"), 413},
      {"two lengths", Post("Content-Length: 5\r\nContent-Length: 6\r\n"), 400},
      {"twice the same length", Post("Content-Length: 5\r\nContent-Length: 5\r\n"), 400},
      {"empty length", Post("Content-Length: \r\n"), 400},
      {"hexadecimal length", Post("Content-Length: 0x5\r\n"), 400},
      {"length and encoding", Post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400},
      {"encoding and length", Post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400},
      {"encoding and huge length",
       Post("Transfer-Encoding: chunked\r\nContent-Length: 18446744073709551616\r\n"),
       400},
      {"unknown encoding", Post("Transfer-Encoding: xchunked\r\n"), 400},
      {"two encodings", Post("Transfer-Encoding: gzip, chunked\r\n"), 400},
      {"encodings twice",
       Post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
       400},
      {"encoding in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"chunk of -2", Chunked("-2\r\nab\r\n"), 400},
      {"chunk of 16 f", Chunked("ffffffffffffffff\r\nab\r\n"), 413},
      {"chunk of 17 f", Chunked("fffffffffffffffff\r\nab\r\n"), 400},
      {"chunk of 0x10", Chunked("0x10\r\nab\r\n"), 400},
      {"chunk without size", Chunked("\r\nab\r\n"), 400},
      {"chunk longer than said", Chunked("1\r\nab\r\n"), 400},
      {"chunk extension of 300 bytes", Chunked("1;" + std::string(300, 'x') + "\r\na\r\n"), 400},
      {"bare LF", "GET / HTTP/1.1\nHost: a\n\n", 400},
      {"bare CR", Get("a: b\rc: d\r\n"), 400},
      {"NUL in a value", Get(std::string("a: b\0c\r\n", 8)), 400},
      {"NUL in a name", Get(std::string("a\0: b\r\n", 7)), 400},
      {"DEL in a value", Get("a: \x7f\r\n"), 400},
      {"folded line", Get("a: b\r\n c\r\n"), 400},
      {"space before colon", Get("a : b\r\n"), 400},
      {"no colon", Get("abc\r\n"), 400},
      {"empty name", Get(": b\r\n"), 400},
      {"no host", "GET / HTTP/1.1\r\n\r\n", 400},
      {"two hosts", Get("Host: b\r\n"), 400},
      {"host with /", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400},
      {"host with ?", "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n", 400},
      {"host with @", "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400},
      {"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400},
      {"1 KiB method", std::string(1024, 'A') + " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"no method", " / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"no target", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"target not ASCII", "GET /\xC3\xA9 HTTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505},
      {"no version", "GET /\r\nHost: a\r\n\r\n", 400},
      {"other protocol", "GET / FTP/1.1\r\nHost: a\r\n\r\n", 400},
      {"TLS hello", std::string("\x16\x03\x01\x02\x00\x01", 6), 400},
      {"empty lines", "\r\n\r\nGET / HTTP/1.1\r\n", 400},
      {"other expectation", Post("Content-Length: 1\r\nExpect: a\r\n"), 417},
  };
}

TEST(RequestReaderTest, RefusesBadInput) {
  for (const BadInput& bad : BadInputs()) {
    const std::string trace = TraceOf(bad.bytes);
    EXPECT_NE(trace.find("error " + std::to_string(bad.status)), std::string::npos)
        << bad.what << ": " << trace.substr(0, 200);
  }
}

TEST(RequestReaderTest, TakesLimitsExactly) {
  std::string fields;
  for (int i = 0; i < 99; ++i) fields += "a: b\r\n";
  EXPECT_EQ(TraceOf(Get(fields)), "GET /health; body ''; complete");
  const size_t room = (16 << 10) - Get("a: \r\n").size();
  EXPECT_EQ(TraceOf(Get("a: " + std::string(room, 'b') + "\r\n")),
            "GET /health; body ''; complete");
  EXPECT_EQ(TraceOf(Get("a: " + std::string(room + 1, 'b') + "\r\n")), "error 431");
  const std::string body(4 << 20, 'x');
  EXPECT_EQ(TraceOf(Post("Content-Length: 4194304\r\n", body)),
            "POST /x; body '" + body + "'; complete");
  EXPECT_EQ(TraceOf(Chunked("400000\r\n" + body + "\r\n1\r\n")), "POST /x; error 413");
}

TEST(RequestReaderTest, TheResultDoesNotDependOnTheCuts) {
  std::vector<std::string> inputs = {
      Get() + Get() + Post("Content-Length: 3\r\n", "abc") + Get(),
      Chunked("2\r\nab\r\n1;x=\"y\"\r\nc\r\n0\r\nTrailer: t\r\n\r\n") + Get(),
      Chunked("0\r\n\r\n") + Get(),
      Chunked("0\r\nTrailer: t\r\n\r\n") + Get(),
      Chunked("A\r\n0123456789\r\n0\r\n\r\n") + "\r\n" + Get("Connection: close\r\n"),
  };
  for (const BadInput& bad : BadInputs()) {
    if (bad.bytes.size() < 4096) inputs.push_back(Get() + bad.bytes + Get());
  }
  std::mt19937 random(1);
  for (const std::string& input : inputs) {
    const std::string whole = TraceOf(input);
    EXPECT_EQ(TraceOf(input, {1}), whole) << input;
    for (size_t cut = 1; cut < input.size(); ++cut) {
      EXPECT_EQ(TraceOf(input, {cut, input.size()}), whole) << input << " cut at " << cut;
    }
    for (int i = 0; i < 50; ++i) {
      std::vector<size_t> pieces;
      for (int k = 0; k < 7; ++k) pieces.push_back(1 + random() % 40);
      EXPECT_EQ(TraceOf(input, pieces), whole) << input;
    }
  }
}

TEST(RequestReaderTest, OneByteChunksAreReadInLinearTime) {
  std::string body;
  for (int i = 0; i < 1'000'000; ++i) body += "1\r\na\r\n";
  EXPECT_EQ(TraceOf(Chunked(body + "0\r\n\r\n"), {16 << 10}),
            "POST /x; body '" + std::string(1'000'000, 'a') + "'; complete");
}

TEST(RequestReaderTest, RandomBytesNeverPassAsARequest) {
  std::mt19937 random(2);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = Chunked("2\r\nab\r\n0\r\n\r\n") + Get("Content-Length: 0\r\n");
    for (int k = 0; k < 3; ++k) bytes[random() % bytes.size()] = static_cast<char>(random());
    const std::string whole = TraceOf(bytes);
    EXPECT_EQ(TraceOf(bytes, {1}), whole);
  }
}

}  // namespace
}  // namespace paceline::router
