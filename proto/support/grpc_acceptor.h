// Accepts connections for a gRPC server. gRPC's own listener ends for good, without a word to its
// owner, when the process has no descriptor left for a connection (1.51); this one waits until
// there is one. Owned by whoever owns the server; create, start and stop from one thread.
#ifndef PACELINE_PROTO_SUPPORT_GRPC_ACCEPTOR_H_
#define PACELINE_PROTO_SUPPORT_GRPC_ACCEPTOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "grpcpp/server_builder.h"

namespace paceline {

class GrpcAcceptor {
 public:
  // Listens on `host` (a name, an address; 0.0.0.0 and :: for all of both kinds) and `port` (0: a
  // free one) for the server that `builder` is about to make. Connections whose peer does not
  // acknowledge what it was sent for `user_timeout_ms` end; 0: the system's limit. Unavailable or
  // InvalidArgument, naming the address.
  static absl::StatusOr<std::unique_ptr<GrpcAcceptor>> Listen(
      const std::string& host,
      uint16_t port,
      std::shared_ptr<grpc::ServerCredentials> credentials,
      int user_timeout_ms,
      grpc::ServerBuilder& builder);
  ~GrpcAcceptor() { Stop(); }
  GrpcAcceptor(const GrpcAcceptor&) = delete;
  GrpcAcceptor& operator=(const GrpcAcceptor&) = delete;

  uint16_t port() const { return port_; }
  // Once the server has been built.
  void Start();
  // Accepts no more; before the server shuts down. Any number of times.
  void Stop();

 private:
  GrpcAcceptor(int listener,
               int wake,
               uint16_t port,
               int user_timeout_ms,
               std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> sink)
      : listener_(listener),
        wake_(wake),
        port_(port),
        user_timeout_ms_(user_timeout_ms),
        sink_(std::move(sink)) {}

  void Loop();
  // Waits; false when Stop was called.
  bool Sleep(int milliseconds) const;

  int listener_;
  int wake_;  // an eventfd
  const uint16_t port_;
  const int user_timeout_ms_;
  const std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> sink_;
  std::thread thread_;
};

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_GRPC_ACCEPTOR_H_
