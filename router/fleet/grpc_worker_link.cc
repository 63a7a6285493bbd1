#include "router/fleet/grpc_worker_link.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <utility>

#include "grpcpp/grpcpp.h"
#include "proto/frame_checksum.h"
#include "proto/paceline/v1/worker.grpc.pb.h"
#include "proto/support/status_grpc.h"
#include "proto/support/tls_grpc.h"

namespace paceline::router {
namespace {

void ShowToken(const GrpcLinkOptions& options, grpc::ClientContext& context) {
  if (options.token) context.AddMetadata("authorization", "Bearer " + options.token());
}

// The reactor of one Attach call. gRPC's threads call the On... methods; the link's owner calls the
// others. A hold keeps the call alive while the owner may still start writes.
class AttachStream final : public grpc::ClientBidiReactor<v1::RouterMessage, v1::WorkerMessage> {
 public:
  explicit AttachStream(WorkerLink::EventFn on_event) : on_event_(std::move(on_event)) {}

  void Start(v1::Worker::Stub& stub, const GrpcLinkOptions& options) {
    ShowToken(options, context_);
    stub.async()->Attach(&context_, this);
    AddHold();
    StartRead(&incoming_);
    StartCall();
  }

  void Send(v1::RouterMessage message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (closed_) return;
    outbox_.push_back(std::move(message));
    if (!is_writing_) WriteNext();
  }

  // Ends the call and waits until the last callback has returned.
  void Close() {
    context_.TryCancel();
    ReleaseHold();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return is_done_; });
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {
      ReleaseHold();
      return;
    }
    v1::WorkerMessage message;
    message.Swap(&incoming_);
    if (!Unseal(message)) {
      is_damaged_ = true;
      context_.TryCancel();
      ReleaseHold();
      return;
    }
    on_event_(std::move(message));
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_writing_ = false;
    if (ok && !closed_ && !outbox_.empty()) WriteNext();
  }

  void OnDone(const grpc::Status& status) override {
    on_event_(LinkClosed{is_damaged_ ? absl::DataLossError("a frame was damaged on its way")
                                     : FromGrpcStatus(status)});
    const std::lock_guard<std::mutex> lock(mutex_);
    is_done_ = true;
    done_.notify_all();  // under the lock: the waiter destroys this object
  }

  // REQUIRES: mutex_ held, not closed, nothing being written, outbox not empty.
  void WriteNext() {
    is_writing_ = true;
    outgoing_ = std::move(outbox_.front());
    Seal(outgoing_);
    outbox_.pop_front();
    StartWrite(&outgoing_);
  }

  void ReleaseHold() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (closed_) return;
      closed_ = true;
      outbox_.clear();
    }
    RemoveHold();
  }

  const WorkerLink::EventFn on_event_;
  grpc::ClientContext context_;
  v1::WorkerMessage incoming_;
  bool is_damaged_ = false;  // written before the last callback, read in it

  std::mutex mutex_;  // guards everything below
  std::condition_variable done_;
  std::deque<v1::RouterMessage> outbox_;
  v1::RouterMessage outgoing_;
  bool is_writing_ = false;
  bool closed_ = false;
  bool is_done_ = false;
};

// One GetTokenizer call.
class TokenizerFetch {
 public:
  void Start(v1::Worker::Stub& stub,
             const std::string& digest,
             const GrpcLinkOptions& options,
             WorkerLink::TokenizerFn done) {
    request_.set_digest(digest);
    ShowToken(options, context_);
    context_.set_deadline(std::chrono::system_clock::now() +
                          std::chrono::milliseconds(options.tokenizer_timeout_ms));
    stub.async()->GetTokenizer(
        &context_, &request_, &bundle_, [this, done = std::move(done)](grpc::Status status) {
          if (status.ok()) {
            done(std::move(bundle_));
          } else {
            done(FromGrpcStatus(status));
          }
          const std::lock_guard<std::mutex> lock(mutex_);
          is_done_ = true;
          finished_.notify_all();
        });
  }

  void Close() {
    context_.TryCancel();
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return is_done_; });
  }

 private:
  grpc::ClientContext context_;
  v1::GetTokenizerRequest request_;
  v1::TokenizerBundle bundle_;
  std::mutex mutex_;  // guards is_done_
  std::condition_variable finished_;
  bool is_done_ = false;
};

class GrpcWorkerLink final : public WorkerLink {
 public:
  GrpcWorkerLink(const std::string& address, const GrpcLinkOptions& options) : options_(options) {
    grpc::ChannelArguments args;
    args.SetMaxReceiveMessageSize(options.max_message_bytes);
    args.SetMaxSendMessageSize(options.max_message_bytes);
    args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // the worker plane never goes through a proxy
    if (!options.server_name.empty()) args.SetSslTargetNameOverride(options.server_name);
    stub_ = v1::Worker::NewStub(
        grpc::CreateCustomChannel(address, ChannelCredentialsOf(options.tls), args));
  }

  ~GrpcWorkerLink() override {
    if (stream_ != nullptr) stream_->Close();
    for (auto& fetch : fetches_) fetch->Close();
  }

  void Open(EventFn on_event) override {
    stream_ = std::make_unique<AttachStream>(std::move(on_event));
    stream_->Start(*stub_, options_);
  }

  void Send(v1::RouterMessage message) override { stream_->Send(std::move(message)); }

  void GetTokenizer(const std::string& digest, TokenizerFn done) override {
    fetches_.push_back(std::make_unique<TokenizerFetch>());
    fetches_.back()->Start(*stub_, digest, options_, std::move(done));
  }

 private:
  const GrpcLinkOptions options_;
  std::unique_ptr<v1::Worker::Stub> stub_;
  std::unique_ptr<AttachStream> stream_;
  std::deque<std::unique_ptr<TokenizerFetch>> fetches_;  // few per link: one per retry
};

}  // namespace

WorkerLinkFactory GrpcWorkerLinkFactory(GrpcLinkOptions options) {
  return [options](const std::string& address) -> std::unique_ptr<WorkerLink> {
    return std::make_unique<GrpcWorkerLink>(address, options);
  };
}

}  // namespace paceline::router
