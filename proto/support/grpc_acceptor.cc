#include "proto/support/grpc_acceptor.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/support/log.h"

namespace paceline {
namespace {

constexpr int kRetryMs = 50;

void Set(int fd, int level, int option, int value) {
  setsockopt(fd, level, option, &value, sizeof(value));
}

// A listening socket, or -1 with errno.
int ListenOn(const addrinfo& address) {
  const int fd = socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
  if (fd < 0) return -1;
  Set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (address.ai_family == AF_INET6) Set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
  if (bind(fd, address.ai_addr, address.ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int PortOf(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof(address);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return -1;
  return ntohs(address.ss_family == AF_INET6
                   ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                   : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

// The first address of `host` that can be listened on.
absl::StatusOr<int> ListenOn(const std::string& host, uint16_t port) {
  const std::string name =
      absl::StrCat("gRPC address ",
                   host.find(':') == host.npos ? host : absl::StrCat("[", host, "]"),
                   ":",
                   port,
                   ": ");
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string service = std::to_string(port);
  if (const int error = getaddrinfo(host.c_str(), service.c_str(), &hints, &found); error != 0) {
    return absl::InvalidArgumentError(absl::StrCat(name, gai_strerror(error)));
  }
  int fd = -1;
  int error = 0;
  for (const addrinfo* address = found; address != nullptr && fd < 0; address = address->ai_next) {
    fd = ListenOn(*address);
    if (fd < 0 && error == 0) error = errno;
  }
  freeaddrinfo(found);
  if (fd < 0) return absl::UnavailableError(absl::StrCat(name, std::strerror(error)));
  return fd;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcAcceptor>> GrpcAcceptor::Listen(
    const std::string& host,
    uint16_t port,
    std::shared_ptr<grpc::ServerCredentials> credentials,
    int user_timeout_ms,
    grpc::ServerBuilder& builder) {
  // All addresses of both kinds, where the system has IPv6; as HTTP ports do, one of localhost's.
  absl::StatusOr<int> listener = ListenOn(host == "0.0.0.0"     ? "::"
                                          : host == "localhost" ? "127.0.0.1"
                                                                : host,
                                          port);
  if (!listener.ok() && host == "0.0.0.0") listener = ListenOn(host, port);
  if (!listener.ok()) return listener.status();
  const int wake = eventfd(0, EFD_CLOEXEC);
  const int bound = PortOf(*listener);
  if (wake < 0 || bound < 0) {
    const int error = errno;
    close(*listener);
    return absl::UnavailableError(absl::StrCat("gRPC listener: ", std::strerror(error)));
  }
  using Type = grpc::ServerBuilder::experimental_type::ExternalConnectionType;
  return std::unique_ptr<GrpcAcceptor>(new GrpcAcceptor(
      *listener,
      wake,
      static_cast<uint16_t>(bound),
      user_timeout_ms,
      builder.experimental().AddExternalConnectionAcceptor(Type::FROM_FD, std::move(credentials))));
}

void GrpcAcceptor::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void GrpcAcceptor::Stop() {
  if (listener_ < 0) return;
  eventfd_write(wake_, 1);
  if (thread_.joinable()) thread_.join();
  close(listener_);
  close(wake_);
  listener_ = wake_ = -1;
}

bool GrpcAcceptor::Sleep(int milliseconds) const {
  pollfd wake = {.fd = wake_, .events = POLLIN, .revents = 0};
  return poll(&wake, 1, milliseconds) <= 0;
}

void GrpcAcceptor::Loop() {
  bool is_short = false;  // of descriptors
  for (;;) {
    pollfd ready[2] = {{.fd = wake_, .events = POLLIN, .revents = 0},
                       {.fd = listener_, .events = POLLIN, .revents = 0}};
    if (poll(ready, 2, -1) < 0 && errno != EINTR) return;
    if (ready[0].revents != 0) return;
    const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      is_short = false;
      Set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
      if (user_timeout_ms_ > 0) Set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, user_timeout_ms_);
      grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
      connection.listener_fd = listener_;
      connection.fd = fd;
      sink_->HandleNewConnection(&connection);
      continue;
    }
    if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) continue;
    if (!std::exchange(is_short, true)) {
      spdlog::warn("gRPC port {}: new connections wait: {}", port_, std::strerror(errno));
    }
    if (!Sleep(kRetryMs)) return;
  }
}

}  // namespace paceline
