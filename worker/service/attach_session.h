// The worker's end of one Attach stream, without the transport: router messages in, worker messages
// out. The gRPC service owns one per stream; the offline command connects one to a router core in
// the same process. OnMessage and Close: one thread at a time. `send` is called from the engine
// thread and from OnMessage's.
#ifndef PACELINE_WORKER_SERVICE_ATTACH_SESSION_H_
#define PACELINE_WORKER_SERVICE_ATTACH_SESSION_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "proto/paceline/v1/worker.pb.h"
#include "proto/support/clock.h"
#include "worker/engine/engine.h"
#include "worker/engine/frame.h"

namespace paceline::worker {

inline constexpr int32_t kAttachProtocol = 1;

// What a replica says of itself; WorkerHello of every session.
struct Identity {
  v1::WorkerHello hello;
};

class AttachSession final : public FrameSink, public std::enable_shared_from_this<AttachSession> {
 public:
  struct Callbacks {
    // Must not block.
    std::function<void(v1::WorkerMessage)> send;
    // The router was silent for the lease time: the transport should close the stream.
    std::function<void()> expired;
  };

  static std::shared_ptr<AttachSession> Create(Engine& engine,
                                               const Identity& identity,
                                               const Clock& clock,
                                               Callbacks callbacks);
  ~AttachSession() override;

  // FailedPrecondition: another protocol, or a first message that is not a hello: close the stream.
  // Requests that are refused are answered by a result, not by a status.
  absl::Status OnMessage(const v1::RouterMessage& message);
  // The stream is gone: cancels the session's requests. Idempotent.
  void Close();

  void OnFrame(Frame frame) override;

 private:
  AttachSession(Engine& engine, const Identity& identity, const Clock& clock, Callbacks callbacks);

  void OnSubmit(const v1::Submit& submit);
  void Refuse(const v1::Submit& submit, const absl::Status& reason);

  Engine& engine_;
  const Identity& identity_;
  const Clock& clock_;
  const Callbacks callbacks_;
  std::atomic<uint64_t> session_{0};  // 0: no hello yet, or closed
  std::atomic<int64_t> last_message_ns_;
  // Engine thread: our hello went out. It waits for the first frame, because an engine that stands
  // still is no replica, however well its process answers.
  bool greeted_ = false;
  // Engine thread: when the last frame came, and when one came later than the engine beats.
  int64_t last_frame_ns_;
  int64_t held_up_ns_ = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SERVICE_ATTACH_SESSION_H_
