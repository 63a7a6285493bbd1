#include <chrono>
#include <deque>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/grpcpp.h"
#include "proto/frame_checksum.h"
#include "proto/paceline/v1/worker.grpc.pb.h"
#include "proto/support/log.h"
#include "proto/support/status_grpc.h"
#include "tests/fakes/fake_worker.h"

namespace paceline::router {
namespace {

// What the fake worker may still call after the stream has gone.
struct Outbox {
  std::mutex mutex;  // guards everything below
  std::deque<v1::WorkerMessage> messages;
  bool is_writing = false;
  bool is_finished = false;
};

class AttachReactor final : public grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage> {
 public:
  AttachReactor(FakeWorker* worker, std::atomic<bool>* damages_next)
      : worker_(worker), damages_next_(damages_next) {
    session_ = worker_->Attach([this](v1::WorkerMessage message) { Send(std::move(message)); },
                               [this](absl::Status status) { End(status); });
    if (session_ != 0) StartRead(&incoming_);
  }

 private:
  void Send(v1::WorkerMessage message) {
    const std::lock_guard<std::mutex> lock(outbox_.mutex);
    if (outbox_.is_finished) return;
    outbox_.messages.push_back(std::move(message));
    if (!outbox_.is_writing) WriteNext();
  }
  void WriteNext() {
    outbox_.is_writing = true;
    outgoing_ = std::move(outbox_.messages.front());
    outbox_.messages.pop_front();
    Seal(outgoing_);
    if (damages_next_->exchange(false)) outgoing_.set_checksum(outgoing_.checksum() ^ 1);
    StartWrite(&outgoing_);
  }
  void End(const absl::Status& status) {
    const std::lock_guard<std::mutex> lock(outbox_.mutex);
    if (outbox_.is_finished) return;
    outbox_.is_finished = true;
    Finish(ToGrpcStatus(status));
  }
  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the router closed the stream"));
    if (!Unseal(incoming_)) return End(absl::DataLossError("damaged"));
    worker_->OnMessage(session_, incoming_);
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    const std::lock_guard<std::mutex> lock(outbox_.mutex);
    outbox_.is_writing = false;
    if (ok && !outbox_.is_finished && !outbox_.messages.empty()) WriteNext();
  }
  void OnCancel() override { End(absl::CancelledError("cancelled")); }
  void OnDone() override {
    // Detach waits for calls into this object that are under way.
    worker_->Detach(session_);
    delete this;
  }

  FakeWorker* const worker_;
  std::atomic<bool>* const damages_next_;
  uint64_t session_ = 0;
  v1::RouterMessage incoming_;
  v1::WorkerMessage outgoing_;
  Outbox outbox_;
};

}  // namespace

class FakeWorkerServer::ServiceImpl final : public v1::Worker::CallbackService {
 public:
  ServiceImpl(FakeWorker* worker, std::atomic<bool>* damages_next)
      : worker_(worker), damages_next_(damages_next) {}
  grpc::ServerBidiReactor<v1::RouterMessage, v1::WorkerMessage>* Attach(
      grpc::CallbackServerContext* /*context*/) override {
    return new AttachReactor(worker_, damages_next_);
  }
  grpc::ServerUnaryReactor* GetTokenizer(grpc::CallbackServerContext* context,
                                         const v1::GetTokenizerRequest* request,
                                         v1::TokenizerBundle* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    auto bundle = worker_->GetTokenizer(request->digest());
    if (bundle.ok()) *response = *std::move(bundle);
    reactor->Finish(ToGrpcStatus(bundle.status()));
    return reactor;
  }

 private:
  FakeWorker* const worker_;
  std::atomic<bool>* const damages_next_;
};

FakeWorkerServer::FakeWorkerServer(FakeWorker* worker)
    : service_(std::make_unique<ServiceImpl>(worker, &damages_next_)) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
  PACELINE_CHECK(server_ != nullptr, "the fake worker cannot listen");
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeWorkerServer::~FakeWorkerServer() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

}  // namespace paceline::router
