// A TCP socket and the few calls that the ranks of a group need. Owned by whoever holds it; one
// thread at a time. Sockets do not block and are closed on exec.
#ifndef PACELINE_WORKER_COMM_SOCKET_H_
#define PACELINE_WORKER_COMM_SOCKET_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace paceline::worker {

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket();

  int fd() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// One end of a connection, in numbers.
struct Endpoint {
  std::string host;
  int port = 0;
};
Endpoint LocalEndpoint(const Socket& socket);
Endpoint PeerEndpoint(const Socket& socket);

// Port 0: any free one. Unavailable: the address is not this host's, or the port is taken.
absl::StatusOr<Socket> ListenTcp(const std::string& host, int port);

// Tries again until `deadline_ns` of the steady clock: the other side may not be up yet.
// DeadlineExceeded with the last reason; InvalidArgument when `host` has no address by then.
absl::StatusOr<Socket> ConnectTcp(const std::string& host, int port, int64_t deadline_ns);

// The next connection, or one that is not open when none waits.
Socket AcceptTcp(const Socket& listener);

// Whole buffers. Unavailable: the connection was closed. DeadlineExceeded.
absl::Status WriteAll(const Socket& socket, const void* data, size_t bytes, int64_t deadline_ns);
absl::Status ReadAll(const Socket& socket, void* data, size_t bytes, int64_t deadline_ns);

// Milliseconds for poll() until `deadline_ns`: 0 when it has passed, at most a minute.
int PollMs(int64_t deadline_ns);

// The deadline `timeout_ms` from now; kNoTimeout is never.
int64_t DeadlineNs(int64_t timeout_ms);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_SOCKET_H_
