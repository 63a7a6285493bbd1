#include "cli/child_processes.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace paceline::cli {
namespace {

TEST(ChildProcessesTest, APortIsReservedThatIsNotInUse) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(fd, 1), 0);
  socklen_t size = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  const int port = ntohs(address.sin_port);
  const int reserved = ReservePort(port);
  EXPECT_GT(reserved, port);
  EXPECT_GT(ReservePort(port), reserved);
  close(fd);

  // A server can listen at it, and another one when that has ended.
  address.sin_port = htons(static_cast<uint16_t>(reserved));
  for (int i = 0; i < 2; ++i) {
    const int server = socket(AF_INET, SOCK_STREAM, 0);
    const int on = 1;
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    EXPECT_EQ(bind(server, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(server, 1), 0);
    close(server);
  }
}

}  // namespace
}  // namespace paceline::cli
