// The worker plane: a gRPC server with the Worker service, one AttachSession per stream. Owned by
// the worker process; Start and Stop from one thread. gRPC's threads only pass messages between
// streams and the engine.
#ifndef PACELINE_WORKER_SERVICE_WORKER_SERVER_H_
#define PACELINE_WORKER_SERVICE_WORKER_SERVER_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/paceline/v1/worker.pb.h"
#include "proto/support/clock.h"
#include "proto/support/tls.h"
#include "worker/engine/engine.h"
#include "worker/service/attach_session.h"

namespace paceline::worker {

class WorkerServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;                    // 0: a free one
    const TlsSource* tls = nullptr;  // null: plain text; must outlive the server
    // Whether a router that shows this token is let in; null: all are. Any thread.
    std::function<bool(std::string_view token)> admits;
  };

  // Unavailable, naming the address: it cannot be bound. Everything passed must outlive the server.
  static absl::StatusOr<std::unique_ptr<WorkerServer>> Start(const Options& options,
                                                             Engine& engine,
                                                             const Identity& identity,
                                                             const v1::TokenizerBundle& tokenizer,
                                                             const Clock& clock);
  // Closes every stream (their requests are cancelled) and waits for the last handler.
  ~WorkerServer();
  WorkerServer(const WorkerServer&) = delete;
  WorkerServer& operator=(const WorkerServer&) = delete;

  int port() const { return port_; }

 private:
  class Service;
  WorkerServer();

  int port_ = 0;
  std::unique_ptr<Service> service_;
  struct Server;
  std::unique_ptr<Server> server_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SERVICE_WORKER_SERVER_H_
