#include "tests/fakes/fake_worker.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/tokenizer/byte_level.h"
#include "proto/block_hash.h"
#include "proto/support/log.h"
#include "proto/tokenizer_digest.h"

namespace paceline::router {

v1::TokenizerBundle FakeTokenizer() {
  v1::TokenizerBundle bundle;
  bundle.set_model("gpt2");
  bundle.set_pre("gpt-2");
  for (int byte = 0; byte < 256; ++byte) {
    bundle.add_tokens(model::ByteLevelChar(static_cast<uint8_t>(byte)));
    bundle.add_token_types(1);
  }
  for (const char* special : {"<|im_start|>", "<|im_end|>"}) {
    bundle.add_tokens(special);
    bundle.add_token_types(3);
  }
  bundle.set_bos_id(-1);
  bundle.set_eos_id(kImEndId);
  bundle.set_eot_id(-1);
  bundle.set_unk_id(-1);
  bundle.set_pad_id(-1);
  bundle.set_context_length(4096);
  bundle.set_chat_template(
      "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
      "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  bundle.set_digest(TokenizerDigest(bundle));
  return bundle;
}

v1::WorkerHello FakeHello(const std::string& replica_id, const std::string& model) {
  v1::WorkerHello hello;
  hello.set_replica_id(replica_id);
  hello.set_epoch(1);
  hello.set_protocol(1);
  hello.set_model_id(model);
  hello.set_model_digest(absl::StrCat("digest-of-", model));
  hello.set_numerics(absl::StrCat("numerics-of-", model));
  hello.set_tokenizer_digest(FakeTokenizer().digest());
  hello.set_block_size(16);
  hello.set_num_blocks(256);
  hello.set_max_model_len(2048);
  hello.set_max_num_seqs(64);
  hello.set_vocab_size(kFakeVocabSize);
  hello.set_tensor_parallel_size(1);
  hello.set_pipeline_parallel_size(1);
  hello.set_architecture("fake");
  hello.set_lease_ms(2000);
  hello.set_prefix_caching(true);
  return hello;
}

int32_t FakeToken(const std::vector<int32_t>& history, uint64_t seed, int32_t choice) {
  const BlockHash root{.high = seed, .low = static_cast<uint64_t>(choice)};
  return 'a' + static_cast<int32_t>(NextBlockHash(root, history).high % 26);
}

std::string FakeAnswer(const std::string& prompt, uint64_t seed, int32_t choice, int32_t count) {
  std::vector<int32_t> history;
  for (const char c : prompt) history.push_back(static_cast<uint8_t>(c));
  std::string text;
  for (int32_t i = 0; i < count; ++i) {
    history.push_back(FakeToken(history, seed, choice));
    text.push_back(static_cast<char>(history.back()));
  }
  return text;
}

FakeWorker::FakeWorker(v1::WorkerHello hello)
    : hello_(std::move(hello)), tokenizer_(FakeTokenizer()) {}

FakeWorker::~FakeWorker() {
  is_stopping_ = true;
  if (stepper_.joinable()) stepper_.join();
}

uint64_t FakeWorker::Attach(SendFn send, CloseFn close) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (is_killed_) {
    close(absl::UnavailableError("connection refused"));
    return 0;
  }
  const uint64_t id = next_session_++;
  sessions_[id] = {.send = std::move(send), .close = std::move(close)};
  return id;
}

void FakeWorker::OnMessage(uint64_t id, const v1::RouterMessage& message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto session = sessions_.find(id);
  if (session == sessions_.end() || is_deaf_) return;
  const auto each = [&](const std::string& request, const auto& fn) {
    for (Sequence& sequence : sequences_) {
      if (sequence.session == id && sequence.request_id == request) fn(sequence);
    }
  };
  if (message.has_hello() && !is_hung_) {
    v1::WorkerMessage hello;
    *hello.mutable_hello() = hello_;
    session->second.send(std::move(hello));
  } else if (message.has_submit()) {
    OnSubmit(id, message.submit());
  } else if (message.has_cancel()) {
    cancels_.push_back(message.cancel().request_id());
    sequences_.erase(std::remove_if(sequences_.begin(),
                                    sequences_.end(),
                                    [&](const Sequence& sequence) {
                                      return sequence.session == id &&
                                             sequence.request_id == cancels_.back();
                                    }),
                     sequences_.end());
  } else if (message.has_pause()) {
    pauses_.push_back(message.pause().request_id());
    each(pauses_.back(), [](Sequence& sequence) { sequence.is_paused = true; });
  } else if (message.has_resume()) {
    resumes_.push_back(message.resume().request_id());
    each(resumes_.back(), [](Sequence& sequence) { sequence.is_paused = false; });
  } else if (message.has_heartbeat()) {
    ++heartbeats_;
  } else if (message.has_flush_prefix_cache()) {
    ++flushes_;
  }
}

void FakeWorker::OnSubmit(uint64_t session, const v1::Submit& submit) {
  submits_.push_back(submit);
  if (!is_hung_) {
    v1::WorkerMessage accepted;
    accepted.mutable_accepted()->set_request_id(submit.request_id());
    accepted.mutable_accepted()->set_attempt(submit.attempt());
    sessions_.at(session).send(std::move(accepted));
  }
  for (int32_t i = 0; i < submit.n(); ++i) {
    Sequence sequence;
    sequence.session = session;
    sequence.request_id = submit.request_id();
    sequence.attempt = submit.attempt();
    sequence.choice = submit.first_choice_index() + i;
    sequence.history.assign(submit.prompt_token_ids().begin(), submit.prompt_token_ids().end());
    sequence.prompt_tokens = submit.num_prompt_tokens();
    sequence.output_tokens = submit.prompt_token_ids_size() - submit.num_prompt_tokens();
    sequence.max_tokens = submit.sampling().max_tokens();
    sequence.seed = submit.seed();
    sequence.logprobs = submit.sampling().logprobs();
    sequence.prompt_logprobs = submit.sampling().prompt_logprobs();
    if (script_ != nullptr) sequence.script = script_(submit, sequence.choice);
    sequences_.push_back(std::move(sequence));
  }
}

void FakeWorker::Detach(uint64_t id) {
  const std::lock_guard<std::mutex> lock(mutex_);
  sessions_.erase(id);
  sequences_.erase(std::remove_if(sequences_.begin(),
                                  sequences_.end(),
                                  [&](const Sequence& sequence) { return sequence.session == id; }),
                   sequences_.end());
}

absl::StatusOr<v1::TokenizerBundle> FakeWorker::GetTokenizer(const std::string& digest) const {
  if (digest != tokenizer_.digest()) return absl::NotFoundError("another tokenizer");
  return tokenizer_;
}

void FakeWorker::SetScript(ScriptFn script) {
  const std::lock_guard<std::mutex> lock(mutex_);
  script_ = std::move(script);
}

void FakeWorker::Step(int count) {
  for (int i = 0; i < count; ++i) StepOnce();
}

void FakeWorker::StepOnce() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (is_hung_ || is_killed_) return;
  ++step_;
  std::map<uint64_t, v1::WorkerMessage> frames;
  for (size_t i = 0; i < sequences_.size();) {
    Sequence& sequence = sequences_[i];
    if (sequence.is_paused) {
      ++i;
      continue;
    }
    v1::SequenceResult result = Advance(sequence);
    const bool is_done = result.finish_reason() != 0;
    *frames[sequence.session].mutable_step()->add_results() = std::move(result);
    if (is_done) {
      sequences_.erase(sequences_.begin() + static_cast<ptrdiff_t>(i));
    } else {
      ++i;
    }
  }
  for (auto& [id, frame] : frames) {
    *frame.mutable_step()->mutable_load() = LoadNow();
    if (const auto session = sessions_.find(id); session != sessions_.end()) {
      session->second.send(std::move(frame));
    }
  }
}

v1::SequenceResult FakeWorker::Advance(Sequence& sequence) {
  v1::SequenceResult result;
  result.set_request_id(sequence.request_id);
  result.set_attempt(sequence.attempt);
  result.set_choice_index(sequence.choice);
  result.set_first_index(sequence.output_tokens);
  const auto logprobs = [](v1::Logprobs& out, int32_t token, int32_t count) {
    out.set_logprob(-0.5F);
    out.set_rank(1);
    for (int32_t k = 0; k < count; ++k) {
      out.add_top_ids((token + k) % kFakeVocabSize);
      out.add_top_logprobs(-0.5F - static_cast<float>(k));
    }
  };
  if (!sequence.is_begun) {
    sequence.is_begun = true;
    result.set_cached_tokens(cached_tokens_);
    for (int32_t i = 0; sequence.prompt_logprobs >= 0 && i < sequence.prompt_tokens; ++i) {
      logprobs(*result.add_prompt_logprobs(), sequence.history[i], sequence.prompt_logprobs);
      if (i == 0) result.mutable_prompt_logprobs(0)->Clear();
    }
  }
  for (int32_t i = 0; i < tokens_per_step_ && result.finish_reason() == 0; ++i) {
    const std::optional<Script>& script = sequence.script;
    if (script && sequence.output_tokens >= static_cast<int32_t>(script->text.size())) {
      result.set_finish_reason(script->finish);
      result.set_error_code(static_cast<int32_t>(script->error));
      if (!script->has_stop_token) break;
      result.add_token_ids(kImEndId);
      result.set_has_stop_token(true);
      result.set_stop_token_id(kImEndId);
      if (sequence.logprobs >= 0) logprobs(*result.add_logprobs(), kImEndId, sequence.logprobs);
      break;
    }
    const int32_t token = script ? static_cast<uint8_t>(script->text[sequence.output_tokens])
                                 : FakeToken(sequence.history, sequence.seed, sequence.choice);
    sequence.history.push_back(token);
    ++sequence.output_tokens;
    result.add_token_ids(token);
    if (sequence.logprobs >= 0) logprobs(*result.add_logprobs(), token, sequence.logprobs);
    if (sequence.output_tokens >= sequence.max_tokens) {
      result.set_finish_reason(v1::FINISH_REASON_LENGTH);
    }
  }
  return result;
}

v1::Load FakeWorker::LoadNow() const {
  v1::Load load;
  load.set_running(static_cast<int32_t>(sequences_.size()));
  load.set_free_blocks(hello_.num_blocks());
  load.set_total_blocks(hello_.num_blocks());
  load.set_step(step_);
  load.set_routers(static_cast<int32_t>(sessions_.size()));
  load.set_is_draining(is_draining_);
  return load;
}

void FakeWorker::StepEvery(int64_t interval_us) {
  stepper_ = std::thread([this, interval_us] {
    int64_t count = 0;
    while (!is_stopping_) {
      std::this_thread::sleep_for(std::chrono::microseconds(interval_us));
      StepOnce();
      if (++count % std::max<int64_t>(1, 100'000 / interval_us) == 0) Beat();
    }
  });
}

void FakeWorker::Beat() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (is_hung_ || is_killed_) return;
  for (auto& [id, session] : sessions_) {
    v1::WorkerMessage beat;
    *beat.mutable_heartbeat()->mutable_load() = LoadNow();
    session.send(std::move(beat));
  }
}

void FakeWorker::SendKvEvents(const v1::KvEvents& events) {
  v1::WorkerMessage message;
  *message.mutable_kv_events() = events;
  SendMessage(message);
}

void FakeWorker::SendResult(const v1::SequenceResult& result) {
  v1::WorkerMessage message;
  *message.mutable_step()->add_results() = result;
  SendMessage(message);
}

void FakeWorker::SendMessage(const v1::WorkerMessage& message) {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (auto& [id, session] : sessions_) session.send(message);
}

void FakeWorker::CloseAll(const absl::Status& status) {
  const std::lock_guard<std::mutex> lock(mutex_);  // held, so that Detach waits for the calls below
  is_killed_ = true;
  for (auto& [id, session] : sessions_) session.close(status);
  sessions_.clear();
  sequences_.clear();
}

void FakeWorker::Kill() { CloseAll(absl::UnavailableError("connection reset")); }
void FakeWorker::Leave() { CloseAll(absl::OkStatus()); }

void FakeWorker::Restart() {
  const std::lock_guard<std::mutex> lock(mutex_);
  is_killed_ = false;
  is_deaf_ = false;
  is_draining_ = false;
  hello_.set_epoch(hello_.epoch() + 1);
}

void FakeWorker::set_epoch(uint64_t epoch) {
  const std::lock_guard<std::mutex> lock(mutex_);
  hello_.set_epoch(epoch);
}

std::vector<v1::Submit> FakeWorker::submits() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return submits_;
}
std::vector<std::string> FakeWorker::cancels() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return cancels_;
}
std::vector<std::string> FakeWorker::pauses() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return pauses_;
}
std::vector<std::string> FakeWorker::resumes() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return resumes_;
}
int FakeWorker::running() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(sequences_.size());
}
uint64_t FakeWorker::sessions_so_far() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return next_session_ - 1;
}
int FakeWorker::sessions() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int>(sessions_.size());
}

namespace {

class InMemoryLink final : public WorkerLink {
 public:
  explicit InMemoryLink(FakeWorker* worker) : worker_(worker) {}
  ~InMemoryLink() override {
    if (session_ != 0) worker_->Detach(session_);
  }
  void Open(EventFn on_event) override {
    if (worker_ == nullptr) {
      on_event(LinkClosed{absl::UnavailableError("no such address")});
      return;
    }
    session_ = worker_->Attach(
        [on_event](v1::WorkerMessage message) { on_event(std::move(message)); },
        [on_event](absl::Status status) { on_event(LinkClosed{std::move(status)}); });
  }
  void Send(v1::RouterMessage message) override {
    if (session_ != 0) worker_->OnMessage(session_, message);
  }
  void GetTokenizer(const std::string& digest, TokenizerFn done) override {
    done(worker_->GetTokenizer(digest));
  }

 private:
  FakeWorker* const worker_;
  uint64_t session_ = 0;
};

}  // namespace

WorkerLinkFactory InMemoryLinks(std::map<std::string, FakeWorker*> workers) {
  return [workers](const std::string& address) -> std::unique_ptr<WorkerLink> {
    const auto found = workers.find(address);
    return std::make_unique<InMemoryLink>(found == workers.end() ? nullptr : found->second);
  };
}

}  // namespace paceline::router
