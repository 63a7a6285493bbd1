#include "cli/chat_client.h"

#include "gtest/gtest.h"

namespace paceline::cli {
namespace {

TEST(ChatClientTest, TakesHttpAndGrpcUrls) {
  for (const char* url : {"http://127.0.0.1:8000",
                          "http://localhost",
                          "http://h:1/v1",
                          "http://h:1/",
                          "grpc://h:50051",
                          "grpc://h",
                          "https://h:8443",
                          "grpcs://h"}) {
    EXPECT_TRUE(MakeChatClient(url).ok()) << url;
  }
}

TEST(ChatClientTest, RefusesWhatIsNoServerUrl) {
  for (const char* url : {"",
                          "h:1",
                          "ftp://h",
                          "http://",
                          "http://h:0",
                          "http://h:x",
                          "http://h:70000",
                          "http://h/path:1",
                          "grpc://:5"}) {
    EXPECT_EQ(MakeChatClient(url).status().code(), absl::StatusCode::kInvalidArgument) << url;
  }
}

TEST(ChatClientTest, NoServerIsUnavailable) {
  // Port 1 of the loopback: nothing listens there.
  for (const char* url : {"http://127.0.0.1:1", "grpc://127.0.0.1:1"}) {
    auto client = MakeChatClient(url);
    ASSERT_TRUE(client.ok());
    const std::atomic<bool> stop{false};
    const auto answer = (*client)->Ask(
        {{"user", "hi"}}, {}, [](const std::string&) {}, stop);
    EXPECT_EQ(answer.status().code(), absl::StatusCode::kUnavailable) << url;
  }
}

}  // namespace
}  // namespace paceline::cli
