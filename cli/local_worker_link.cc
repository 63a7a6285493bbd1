#include "cli/local_worker_link.h"

#include <memory>
#include <mutex>
#include <utility>

#include "proto/support/clock.h"
#include "worker/service/attach_session.h"

namespace paceline::cli {
namespace {

class LocalWorkerLink final : public router::WorkerLink {
 public:
  explicit LocalWorkerLink(LoadedModel& model) : model_(model) {}

  ~LocalWorkerLink() override {
    {
      const std::lock_guard lock(receiver_->mutex);
      receiver_->on_event = nullptr;
    }
    if (session_ != nullptr) session_->Close();
  }

  void Open(EventFn on_event) override {
    receiver_->on_event = std::move(on_event);
    session_ = worker::AttachSession::Create(
        model_.engine(),
        model_.identity(),
        SteadyClock::Get(),
        {.send = [receiver = receiver_](v1::WorkerMessage m) { receiver->Give(std::move(m)); },
         .expired =
             [receiver = receiver_] {
               receiver->Give(router::LinkClosed{absl::CancelledError("lease expired")});
             }});
  }

  void Send(v1::RouterMessage message) override {
    if (absl::Status status = session_->OnMessage(message); !status.ok()) {
      receiver_->Give(router::LinkClosed{std::move(status)});
    }
  }

  void GetTokenizer(const std::string& digest, TokenizerFn done) override {
    if (digest == model_.tokenizer().digest()) {
      done(model_.tokenizer());
    } else {
      done(absl::NotFoundError("no tokenizer of that digest"));
    }
  }

 private:
  // Outlives the link: the engine may still hold a session that it has not been told to drop.
  struct Receiver {
    std::mutex mutex;
    EventFn on_event;  // guarded by mutex; null once the link is gone or closed

    void Give(router::LinkEvent event) {
      const std::lock_guard lock(mutex);
      if (!on_event) return;
      const bool closed = std::holds_alternative<router::LinkClosed>(event);
      on_event(std::move(event));
      if (closed) on_event = nullptr;
    }
  };

  LoadedModel& model_;
  const std::shared_ptr<Receiver> receiver_ = std::make_shared<Receiver>();
  std::shared_ptr<worker::AttachSession> session_;
};

}  // namespace

router::WorkerLinkFactory LocalWorkerLinkFactory(LoadedModel& model) {
  return [&model](const std::string&) -> std::unique_ptr<router::WorkerLink> {
    return std::make_unique<LocalWorkerLink>(model);
  };
}

}  // namespace paceline::cli
