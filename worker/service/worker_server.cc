#include "worker/service/worker_server.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/grpcpp.h"
#include "proto/frame_checksum.h"
#include "proto/paceline/v1/worker.grpc.pb.h"
#include "proto/support/grpc_acceptor.h"
#include "proto/support/log.h"
#include "proto/support/log_limit.h"
#include "proto/support/status_grpc.h"
#include "proto/support/tls_grpc.h"

namespace paceline::worker {
namespace {

constexpr int kMaxMessageBytes = 16 << 20;
// A router that reads so slowly that this much piles up is cut off; it reconnects and replays.
constexpr size_t kMaxOutboxBytes = 64 << 20;

// One Attach stream. gRPC owns it (it deletes itself in OnDone); the engine reaches it only through
// the Outbox, which outlives it.
class AttachStream;

// The streams that are open, so that a worker that stops can end them in good order.
class LiveStreams {
 public:
  void Add(AttachStream* stream) {
    const std::lock_guard lock(mutex_);
    streams_.insert(stream);
  }
  void Remove(AttachStream* stream) {
    const std::lock_guard lock(mutex_);
    streams_.erase(stream);
  }
  void EndAll();

 private:
  std::mutex mutex_;  // guards streams_
  std::set<AttachStream*> streams_;
};

// A thread that starts writes, so that the engine's thread, which brings them, goes on with its
// next step instead: serialising and sending takes longer than planning a step does.
class WriteThread {
 public:
  WriteThread() : thread_([this] { Loop(); }) {}
  ~WriteThread() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void Post(std::function<void()> start_write) {
    {
      const std::lock_guard lock(mutex_);
      posted_.push_back(std::move(start_write));
    }
    wake_.notify_one();
  }

 private:
  void Loop() {
    std::vector<std::function<void()>> taken;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stop_ || !posted_.empty(); });
        if (stop_) return;
        std::swap(taken, posted_);
      }
      for (const auto& start_write : taken) start_write();
      taken.clear();
    }
  }

  std::mutex mutex_;  // guards the next three
  std::condition_variable wake_;
  std::vector<std::function<void()>> posted_;
  bool stop_ = false;
  std::thread thread_;  // last: starts when everything else is there
};

class AttachStream final : public grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage> {
 public:
  AttachStream(Engine& engine,
               const Identity& identity,
               const Clock& clock,
               std::shared_ptr<LiveStreams> live,
               std::shared_ptr<WriteThread> writer)
      : outbox_(std::make_shared<Outbox>()), live_(std::move(live)) {
    outbox_->stream = this;
    live_->Add(this);
    session_ = AttachSession::Create(
        engine,
        identity,
        clock,
        {.send =
             [outbox = outbox_, writer = std::move(writer)](v1::WorkerMessage m) {
               if (!Queue(*outbox, std::move(m))) return;
               writer->Post([outbox] {
                 const std::lock_guard lock(outbox->mutex);
                 if (!outbox->writing) WriteNext(*outbox);
               });
             },
         .expired =
             [outbox = outbox_] {
               // CANCELLED, as below: it is not this worker that has failed.
               End(*outbox, grpc::Status(grpc::StatusCode::CANCELLED, "lease expired"));
             }});
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {  // the router half-closed or is gone
      End(*outbox_, grpc::Status::OK);
      return;
    }
    if (!Unseal(incoming_)) {
      End(*outbox_, grpc::Status(grpc::StatusCode::DATA_LOSS, "a frame was damaged on its way"));
      return;
    }
    if (absl::Status status = session_->OnMessage(incoming_); !status.ok()) {
      spdlog::warn("attach stream refused: {}", std::string(status.message()));
      End(*outbox_, ToGrpcStatus(status));
      return;
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(outbox_->mutex);
    outbox_->queued_bytes -= outbox_->in_flight_bytes;
    outbox_->writing = false;
    if (ok) WriteNext(*outbox_);
  }

  void OnCancel() override {
    End(*outbox_, grpc::Status(grpc::StatusCode::CANCELLED, "stream cancelled"));
  }

  void OnDone() override {
    {
      const std::lock_guard lock(outbox_->mutex);
      outbox_->stream = nullptr;
    }
    session_->Close();
    live_->Remove(this);
    delete this;
  }

  // CANCELLED tells a router that this was no crash: it replays elsewhere and blames no request.
  void EndInOrder() {
    End(*outbox_, grpc::Status(grpc::StatusCode::CANCELLED, "the worker is stopping"));
  }

 private:
  struct Outbox {
    std::mutex mutex;                // guards everything below
    AttachStream* stream = nullptr;  // null: the stream is gone
    std::deque<v1::WorkerMessage> queue;
    size_t queued_bytes = 0;
    v1::WorkerMessage in_flight;
    size_t in_flight_bytes = 0;  // of queued_bytes
    bool writing = false;
    bool ended = false;
  };

  // True: a write is to be started.
  static bool Queue(Outbox& outbox, v1::WorkerMessage message) {
    const std::lock_guard lock(outbox.mutex);
    if (outbox.stream == nullptr || outbox.ended) return false;
    outbox.queued_bytes += message.ByteSizeLong();
    outbox.queue.push_back(std::move(message));
    if (outbox.queued_bytes > kMaxOutboxBytes) {
      outbox.ended = true;
      outbox.stream->Finish(
          grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the router does not read"));
      return false;
    }
    return !outbox.writing;
  }

  // REQUIRES: outbox.mutex is held.
  static void WriteNext(Outbox& outbox) {
    if (outbox.queue.empty() || outbox.ended || outbox.stream == nullptr) return;
    outbox.in_flight = std::move(outbox.queue.front());
    outbox.queue.pop_front();
    outbox.in_flight_bytes = outbox.in_flight.ByteSizeLong();
    Seal(outbox.in_flight);
    outbox.writing = true;
    outbox.stream->StartWrite(&outbox.in_flight);
  }

  static void End(Outbox& outbox, const grpc::Status& status) {
    const std::lock_guard lock(outbox.mutex);
    if (outbox.stream == nullptr || outbox.ended) return;
    outbox.ended = true;
    outbox.stream->Finish(status);
  }

  std::shared_ptr<Outbox> outbox_;
  std::shared_ptr<AttachSession> session_;
  const std::shared_ptr<LiveStreams> live_;
  v1::RouterMessage incoming_;
};

void LiveStreams::EndAll() {
  const std::lock_guard lock(mutex_);
  for (AttachStream* stream : streams_) stream->EndInOrder();
}

// An Attach stream that ends with a status before it begins.
class RefusedStream final : public grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage> {
 public:
  explicit RefusedStream(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

class WorkerServer::Service final : public v1::Worker::CallbackService {
 public:
  Service(Options options,
          Engine& engine,
          const Identity& identity,
          const v1::TokenizerBundle& tokenizer,
          const Clock& clock)
      : options_(std::move(options)),
        engine_(engine),
        identity_(identity),
        tokenizer_(tokenizer),
        clock_(clock) {}

  grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage>* Attach(
      grpc::CallbackServerContext* context) override {
    if (const grpc::Status status = Admit(*context); !status.ok()) {
      return new RefusedStream(status);
    }
    return new AttachStream(engine_, identity_, clock_, live_, writer_);
  }

  grpc::ServerUnaryReactor* GetTokenizer(grpc::CallbackServerContext* context,
                                         const v1::GetTokenizerRequest* request,
                                         v1::TokenizerBundle* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    if (const grpc::Status status = Admit(*context); !status.ok()) {
      reactor->Finish(status);
      return reactor;
    }
    if (request->digest() != tokenizer_.digest()) {
      reactor->Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "no tokenizer of that digest"));
      return reactor;
    }
    *response = tokenizer_;
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  void EndAll() { live_->EndAll(); }

 private:
  grpc::Status Admit(const grpc::CallbackServerContext& context) {
    if (!options_.admits) return grpc::Status::OK;
    constexpr std::string_view kScheme = "Bearer ";
    const auto [begin, end] = context.client_metadata().equal_range("authorization");
    std::string_view token;
    if (begin != end && std::next(begin) == end)
      token = {begin->second.data(), begin->second.size()};
    const bool is_bearer = token.substr(0, kScheme.size()) == kScheme;
    token.remove_prefix(is_bearer ? kScheme.size() : token.size());
    if (!token.empty() && options_.admits(token)) return grpc::Status::OK;
    const char* what = token.empty() ? "shows no token" : "shows a token that is not this worker's";
    if (refusals_.Take()) spdlog::warn("a router at {} {}: refused", context.peer(), what);
    return {grpc::StatusCode::UNAUTHENTICATED,
            absl::StrCat("the router ", what, "; give both the same --worker-token-file")};
  }

  const Options options_;
  LogLimit refusals_;
  Engine& engine_;
  const Identity& identity_;
  const v1::TokenizerBundle& tokenizer_;
  const Clock& clock_;
  const std::shared_ptr<LiveStreams> live_ = std::make_shared<LiveStreams>();
  // Shared with the sessions, which the engine keeps until it has taken their Detach.
  const std::shared_ptr<WriteThread> writer_ = std::make_shared<WriteThread>();
};

struct WorkerServer::Server {
  std::shared_ptr<grpc::ServerCredentials> credentials;  // outlives the server
  std::unique_ptr<GrpcAcceptor> acceptor;
  std::unique_ptr<grpc::Server> grpc;
};

WorkerServer::WorkerServer() = default;

absl::StatusOr<std::unique_ptr<WorkerServer>> WorkerServer::Start(
    const Options& options,
    Engine& engine,
    const Identity& identity,
    const v1::TokenizerBundle& tokenizer,
    const Clock& clock) {
  auto server = std::unique_ptr<WorkerServer>(new WorkerServer());
  server->service_ = std::make_unique<Service>(options, engine, identity, tokenizer, clock);
  server->server_ = std::make_unique<Server>();
  server->server_->credentials = ServerCredentialsOf(options.tls);
  grpc::ServerBuilder builder;
  auto acceptor = GrpcAcceptor::Listen(options.host,
                                       static_cast<uint16_t>(options.port),
                                       server->server_->credentials,
                                       /*user_timeout_ms=*/0,
                                       builder);
  if (!acceptor.ok()) {
    return absl::Status(acceptor.status().code(),
                        absl::StrCat("worker plane: ", acceptor.status().message()));
  }
  server->server_->acceptor = *std::move(acceptor);
  server->port_ = server->server_->acceptor->port();
  builder.RegisterService(server->service_.get());
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  // Routers ping to notice silent partitions.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  server->server_->grpc = builder.BuildAndStart();
  if (server->server_->grpc == nullptr) {
    return absl::InternalError("worker plane: cannot start a gRPC server");
  }
  server->server_->acceptor->Start();
  return server;
}

WorkerServer::~WorkerServer() {
  if (server_ != nullptr && server_->grpc != nullptr) {
    server_->acceptor->Stop();
    service_->EndAll();
    // The statuses just sent get a moment to leave.
    server_->grpc->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
    server_->grpc->Wait();
  }
}

}  // namespace paceline::worker
