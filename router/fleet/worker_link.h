// One attachment of this router to one replica's leader: messages down, messages up. Over gRPC
// (grpc_worker_link.h), or in memory when router and worker share a process (offline generate,
// tests). Owned by Fleet, which opens a new link after one has closed; one owner thread.
#ifndef PACELINE_ROUTER_FLEET_WORKER_LINK_H_
#define PACELINE_ROUTER_FLEET_WORKER_LINK_H_

#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/paceline/v1/worker.pb.h"

namespace paceline::router {

struct LinkClosed {
  absl::Status status;  // why; OK when the worker ended the stream in good order
};

using LinkEvent = std::variant<v1::WorkerMessage, LinkClosed>;

class WorkerLink {
 public:
  // Called from any thread, one event at a time, possibly within Open or Send. Must not block and
  // must not call the link.
  using EventFn = std::function<void(LinkEvent)>;
  using TokenizerFn = std::function<void(absl::StatusOr<v1::TokenizerBundle>)>;

  // Closes. No callback runs after the destructor has returned.
  virtual ~WorkerLink() = default;

  // Starts to attach; returns at once. `on_event` gets each message in order, then LinkClosed
  // exactly once (also when attaching fails), then nothing. Called once.
  virtual void Open(EventFn on_event) = 0;
  // Queues `message`; dropped when the link is closed. REQUIRES: Open was called.
  virtual void Send(v1::RouterMessage message) = 0;
  // Fetches the tokenizer with `digest`. `done` is called at most once, from any thread.
  virtual void GetTokenizer(const std::string& digest, TokenizerFn done) = 0;
};

// Makes an unopened link to `address` ("host:port", or a name that the factory knows).
using WorkerLinkFactory = std::function<std::unique_ptr<WorkerLink>(const std::string& address)>;

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_FLEET_WORKER_LINK_H_
