// A replica without a model: speaks the Worker contract, answers with tokens that are a function of
// the tokens before them, the seed and the choice (as a real engine's are), or with a script.
// Reached over gRPC (FakeWorkerServer) or in memory (FakeFleet's links). Steps when told to, or on
// a timer. Thread-safe.
#ifndef PACELINE_TESTS_FAKES_FAKE_WORKER_H_
#define PACELINE_TESTS_FAKES_FAKE_WORKER_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/paceline/v1/inference.pb.h"
#include "proto/paceline/v1/worker.pb.h"
#include "router/fleet/worker_link.h"

namespace grpc {
class Server;
}

namespace paceline::router {

// A vocabulary of the 256 bytes (id = byte), then <|im_start|> and <|im_end|> (256, 257), with a
// ChatML template and no merges: one token per byte.
inline constexpr int32_t kImStartId = 256;
inline constexpr int32_t kImEndId = 257;
inline constexpr int32_t kFakeVocabSize = 258;
v1::TokenizerBundle FakeTokenizer();

// The hello of a replica that serves `model` with FakeTokenizer.
v1::WorkerHello FakeHello(const std::string& replica_id, const std::string& model = "fake");

// What FakeWorker says after `history` (prompt and output so far): a letter a-z.
int32_t FakeToken(const std::vector<int32_t>& history, uint64_t seed, int32_t choice);
// The text of `count` such tokens.
std::string FakeAnswer(const std::string& prompt, uint64_t seed, int32_t choice, int32_t count);

class FakeWorker {
 public:
  // What one choice does instead of the default.
  struct Script {
    std::string text;                                  // its tokens, by output index
    v1::FinishReason finish = v1::FINISH_REASON_STOP;  // after the text
    absl::StatusCode error = absl::StatusCode::kOk;    // with FINISH_REASON_ERROR
    bool has_stop_token = false;                       // <|im_end|> is sent as the last token
  };
  using ScriptFn = std::function<std::optional<Script>(const v1::Submit& submit, int32_t choice)>;
  using SendFn = std::function<void(v1::WorkerMessage)>;
  using CloseFn = std::function<void(absl::Status)>;

  explicit FakeWorker(v1::WorkerHello hello);
  ~FakeWorker();

  // --- the router's side ---
  // Returns the session's number; 0, after calling `close`, while killed.
  uint64_t Attach(SendFn send, CloseFn close);
  void OnMessage(uint64_t session, const v1::RouterMessage& message);
  void Detach(uint64_t session);
  absl::StatusOr<v1::TokenizerBundle> GetTokenizer(const std::string& digest) const;

  // --- the test's side ---
  void SetScript(ScriptFn script);
  void SetCachedTokens(int32_t tokens) { cached_tokens_ = tokens; }
  void SetTokensPerStep(int32_t tokens) { tokens_per_step_ = tokens; }
  // Every sequence that runs says its next token(s); one StepResult per session.
  void Step(int count = 1);
  // Steps by itself from now on until destroyed.
  void StepEvery(int64_t interval_us);
  void Beat();  // a Heartbeat to each session
  void SendKvEvents(const v1::KvEvents& events);
  void SendResult(const v1::SequenceResult& result);
  void SendMessage(const v1::WorkerMessage& message);  // to each session, as it is
  // The process dies: streams break, new ones are refused.
  void Kill();
  // It is back, with the next epoch.
  void Restart();
  // Says from now on that it stops when what runs has ended.
  void BeginDrain() { is_draining_ = true; }
  // Ends the streams in good order and refuses new ones.
  void Leave();
  // It is dead, but nobody knows it yet: what is sent to it is lost.
  void SetDeaf(bool is_deaf) { is_deaf_ = is_deaf; }
  // Says and does nothing more, but keeps its streams; false: goes on.
  void SetHung(bool is_hung) { is_hung_ = is_hung; }
  void set_epoch(uint64_t epoch);

  std::vector<v1::Submit> submits() const;
  std::vector<std::string> cancels() const;
  std::vector<std::string> pauses() const;
  std::vector<std::string> resumes() const;
  int64_t heartbeats() const { return heartbeats_; }
  int64_t flushes() const { return flushes_; }  // of the prefix cache
  int running() const;                          // choices
  int sessions() const;
  uint64_t sessions_so_far() const;

 private:
  struct Sequence {
    uint64_t session = 0;
    std::string request_id;
    int32_t attempt = 0;
    int32_t choice = 0;
    std::vector<int32_t> history;
    int32_t output_tokens = 0;
    int32_t max_tokens = 0;
    uint64_t seed = 0;
    int32_t logprobs = -1;
    int32_t prompt_logprobs = -1;
    int32_t prompt_tokens = 0;
    bool is_paused = false;
    bool is_begun = false;
    std::optional<Script> script;
  };
  struct Session {
    SendFn send;
    CloseFn close;
  };

  void OnSubmit(uint64_t session, const v1::Submit& submit);
  void StepOnce();
  v1::SequenceResult Advance(Sequence& sequence);
  v1::Load LoadNow() const;
  void CloseAll(const absl::Status& status);

  mutable std::mutex mutex_;  // guards everything that is not atomic
  v1::WorkerHello hello_;
  const v1::TokenizerBundle tokenizer_;
  ScriptFn script_;
  std::map<uint64_t, Session> sessions_;
  std::vector<Sequence> sequences_;
  std::vector<v1::Submit> submits_;
  std::vector<std::string> cancels_;
  std::vector<std::string> pauses_;
  std::vector<std::string> resumes_;
  uint64_t next_session_ = 1;
  uint64_t step_ = 0;
  bool is_killed_ = false;

  std::atomic<int64_t> heartbeats_{0};
  std::atomic<int64_t> flushes_{0};
  std::atomic<int32_t> cached_tokens_{0};
  std::atomic<int32_t> tokens_per_step_{1};
  std::atomic<bool> is_draining_{false};
  std::atomic<bool> is_deaf_{false};
  std::atomic<bool> is_hung_{false};
  std::atomic<bool> is_stopping_{false};
  std::thread stepper_;
};

// Links to fake workers in memory. Addresses that are not in the map cannot be reached. The map's
// workers must outlive the links.
WorkerLinkFactory InMemoryLinks(std::map<std::string, FakeWorker*> workers);

// Serves a fake worker over gRPC on a free loopback port.
class FakeWorkerServer {
 public:
  explicit FakeWorkerServer(FakeWorker* worker);
  ~FakeWorkerServer();
  const std::string& address() const { return address_; }
  // One bit of the next frame changes on its way.
  void DamageNext() { damages_next_ = true; }

 private:
  class ServiceImpl;
  std::atomic<bool> damages_next_{false};
  std::unique_ptr<ServiceImpl> service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace paceline::router

#endif  // PACELINE_TESTS_FAKES_FAKE_WORKER_H_
