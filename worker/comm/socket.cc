#include "worker/comm/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "proto/support/clock.h"
#include "proto/support/status_macros.h"
#include "worker/comm/communicator.h"

namespace paceline::worker {
namespace {

constexpr int kBacklog = 4 * kMaxCommRanks;
constexpr int kRetryMs = 50;

int64_t NowNs() { return SteadyClock::Get().NowNs(); }

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

absl::StatusOr<Addresses> Resolve(const std::string& host, int port, int flags) {
  addrinfo hints = {};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* list = nullptr;
  const int error = getaddrinfo(host.c_str(), absl::StrCat(port).c_str(), &hints, &list);
  if (error == 0) return Addresses(list, freeaddrinfo);
  return absl::InvalidArgumentError(
      absl::StrCat("no address of ", host, ": ", gai_strerror(error)));
}

Socket Open(const addrinfo& address) {
  return Socket(
      socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, address.ai_protocol));
}

void SetOption(const Socket& socket, int level, int option, int value) {
  setsockopt(socket.fd(), level, option, &value, sizeof(value));
}

// Small messages leave at once; a host that vanishes is noticed in about ten seconds even when
// nothing is sent to it.
void SetUp(const Socket& socket) {
  SetOption(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPIDLE, 4);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPINTVL, 2);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

// 0, or why not.
int ConnectOnce(const Socket& socket, const addrinfo& address, int64_t deadline_ns) {
  if (connect(socket.fd(), address.ai_addr, address.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd wait = {socket.fd(), POLLOUT, 0};
  if (poll(&wait, 1, PollMs(deadline_ns)) <= 0) return ETIMEDOUT;
  int error = 0;
  socklen_t length = sizeof(error);
  getsockopt(socket.fd(), SOL_SOCKET, SO_ERROR, &error, &length);
  return error;
}

Endpoint ToEndpoint(const sockaddr_storage& address, socklen_t length) {
  char host[NI_MAXHOST] = "";
  char port[NI_MAXSERV] = "0";
  getnameinfo(reinterpret_cast<const sockaddr*>(&address),
              length,
              host,
              sizeof(host),
              port,
              sizeof(port),
              NI_NUMERICHOST | NI_NUMERICSERV);
  return {host, std::atoi(port)};
}

// Calls move(done) until it has moved `bytes`; it returns as read and write do.
template <typename Move>
absl::Status MoveAll(int fd, short event, size_t bytes, int64_t deadline_ns, Move move) {
  for (size_t done = 0; done < bytes;) {
    const ssize_t n = move(done);
    if (n > 0) {
      done += static_cast<size_t>(n);
      continue;
    }
    if (n == 0) return absl::UnavailableError("connection closed");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return absl::UnavailableError(std::strerror(errno));
    if (NowNs() >= deadline_ns) return absl::DeadlineExceededError("no answer");
    pollfd wait = {fd, event, 0};
    poll(&wait, 1, PollMs(deadline_ns));
  }
  return absl::OkStatus();
}

}  // namespace

Socket::~Socket() {
  if (fd_ >= 0) close(fd_);
}

int PollMs(int64_t deadline_ns) {
  const int64_t left_ns = deadline_ns - NowNs();
  return static_cast<int>(std::clamp<int64_t>((left_ns + 999'999) / 1'000'000, 0, 60'000));
}

int64_t DeadlineNs(int64_t timeout_ms) {
  const bool never = timeout_ms >= kNoTimeout / 2'000'000;
  return never ? kNoTimeout : NowNs() + timeout_ms * 1'000'000;
}

Endpoint LocalEndpoint(const Socket& socket) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&address), &length);
  return ToEndpoint(address, length);
}

Endpoint PeerEndpoint(const Socket& socket) {
  sockaddr_storage address = {};
  socklen_t length = sizeof(address);
  getpeername(socket.fd(), reinterpret_cast<sockaddr*>(&address), &length);
  return ToEndpoint(address, length);
}

absl::StatusOr<Socket> ListenTcp(const std::string& host, int port) {
  ASSIGN_OR_RETURN(const Addresses addresses, Resolve(host, port, AI_PASSIVE));
  Socket socket = Open(*addresses);
  SetOption(socket, SOL_SOCKET, SO_REUSEADDR, 1);
  if (bind(socket.fd(), addresses->ai_addr, addresses->ai_addrlen) == 0 &&
      listen(socket.fd(), kBacklog) == 0) {
    return socket;
  }
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", host, ":", port, ": ", std::strerror(errno)));
}

absl::StatusOr<Socket> ConnectTcp(const std::string& host, int port, int64_t deadline_ns) {
  while (true) {
    std::string reason;
    absl::StatusOr<Addresses> addresses = Resolve(host, port, 0);
    if (addresses.ok()) {
      for (const addrinfo* address = addresses->get(); address; address = address->ai_next) {
        Socket socket = Open(*address);
        const int error = ConnectOnce(socket, *address, deadline_ns);
        if (error == 0) {
          SetUp(socket);
          return socket;
        }
        reason = std::strerror(error);
      }
    }
    if (NowNs() >= deadline_ns) {
      RETURN_IF_ERROR(addresses.status());
      return absl::DeadlineExceededError(reason);
    }
    poll(nullptr, 0, std::min(kRetryMs, PollMs(deadline_ns)));
  }
}

Socket AcceptTcp(const Socket& listener) {
  Socket socket(accept4(listener.fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (socket.is_open()) SetUp(socket);
  return socket;
}

absl::Status WriteAll(const Socket& socket, const void* data, size_t bytes, int64_t deadline_ns) {
  return MoveAll(socket.fd(), POLLOUT, bytes, deadline_ns, [&](size_t done) {
    return send(socket.fd(), static_cast<const char*>(data) + done, bytes - done, MSG_NOSIGNAL);
  });
}

absl::Status ReadAll(const Socket& socket, void* data, size_t bytes, int64_t deadline_ns) {
  return MoveAll(socket.fd(), POLLIN, bytes, deadline_ns, [&](size_t done) {
    return recv(socket.fd(), static_cast<char*>(data) + done, bytes - done, 0);
  });
}

}  // namespace paceline::worker
