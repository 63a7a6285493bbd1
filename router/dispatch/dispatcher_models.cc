// Dispatcher, what the fleet serves: models, their text side, gauges; and the calls that only need
// text.
#include <algorithm>
#include <ctime>
#include <utility>

#include "proto/support/log.h"
#include "router/dispatch/dispatcher.h"
#include "router/dispatch/errors.h"

namespace paceline::router {
namespace {

constexpr int64_t kStatsIntervalNs = 250'000'000;

void Widen(const v1::WorkerHello& hello, Model& model) {
  ModelLimits& limits = model.limits;
  limits.max_model_len = std::max(limits.max_model_len, hello.max_model_len());
  limits.vocab_size =
      limits.vocab_size == 0 ? hello.vocab_size() : std::min(limits.vocab_size, hello.vocab_size());
  limits.kv_tokens =
      std::max(limits.kv_tokens, static_cast<int64_t>(hello.num_blocks()) * hello.block_size());
  v1::ModelInfo& info = model.info;
  info.set_architecture(hello.architecture());
  info.set_quantization(hello.quantization());
  info.set_max_model_len(limits.max_model_len);
  info.set_vocab_size(limits.vocab_size);
  info.set_num_parameters(hello.num_parameters());
  info.set_tensor_parallel_size(hello.tensor_parallel_size());
  info.set_pipeline_parallel_size(hello.pipeline_parallel_size());
  info.set_replicas_ready(info.replicas_ready() + 1);
}

}  // namespace

void Dispatcher::OnReplicaUp(const Replica& replica) {
  // The same incarnation: it was cut off or frozen, and no request has killed it.
  for (const auto& [id, call] : calls_) {
    std::erase_if(call->deaths, [&replica](const CallState::Death& death) {
      return death.replica == replica.key && death.epoch == replica.hello.epoch();
    });
  }
  const std::string digest = replica.hello.tokenizer_digest();
  if (texts_[digest].text == nullptr) return BuildText(digest);
  PublishModels();
  TryDispatch();
}

void Dispatcher::BuildText(const std::string& digest) {
  TextSlot& slot = texts_[digest];
  if (slot.is_building) return;
  slot.is_building = true;
  text_->Post([this, digest, bundle = fleet_.Tokenizer(digest), poster = loop_->poster()] {
    auto text = TextModel::Create(*bundle);
    poster.Post([this, digest, text = std::move(text)] {
      TextSlot& slot = texts_[digest];
      slot.is_building = false;
      if (!text.ok()) {
        spdlog::error("the tokenizer of a model cannot be used: {}",
                      std::string(text.status().message()));
        return;
      }
      slot.text = *text;
      PublishModels();
      TryDispatch();
    });
  });
}

// Models once known stay listed with no replica ready, so that calls for them wait instead of 404.
void Dispatcher::PublishModels() {
  auto next = std::make_shared<Models>();
  absl::btree_map<std::string, Model> fresh;
  for (const auto& [key, replica] : fleet_.replicas()) {
    if (replica.state != ReplicaState::kReady) continue;
    const v1::WorkerHello& hello = replica.hello;
    const auto text = texts_.find(hello.tokenizer_digest());
    if (text == texts_.end() || text->second.text == nullptr) continue;
    next->is_ready = true;
    Model& model = fresh[hello.model_id()];
    if (model.text == nullptr) {
      model.text = text->second.text;
      model.tokenizer_digest = hello.tokenizer_digest();
    }
    // Replicas that disagree about the tokenizer do not run what was encoded with the first one's.
    if (model.tokenizer_digest == hello.tokenizer_digest()) Widen(hello, model);
  }
  const auto previous = catalog_.Get();
  for (auto& [id, model] : fresh) {
    model.info.set_id(id);
    const auto known = previous->by_id.find(id);
    model.info.set_created_unix_seconds(known == previous->by_id.end()
                                            ? static_cast<int64_t>(std::time(nullptr))
                                            : known->second->info.created_unix_seconds());
    next->by_id[id] = std::make_shared<const Model>(std::move(model));
  }
  for (const auto& [id, model] : previous->by_id) {
    if (next->by_id.contains(id)) continue;
    Model gone = *model;
    gone.info.set_replicas_ready(0);
    next->by_id[id] = std::make_shared<const Model>(std::move(gone));
  }
  catalog_.Publish(std::move(next));
}

void Dispatcher::PublishStats() {
  const int64_t now_ns = loop_->clock().NowNs();
  const int64_t oldest_ns = queue_.oldest_ns();
  metrics_->SetQueue(
      {.requests = queue_.num_requests(),
       .prompt_tokens = queue_.prompt_tokens(),
       .oldest_age_seconds = oldest_ns == 0 ? 0 : static_cast<double>(now_ns - oldest_ns) / 1e9});
  absl::btree_map<std::string, std::pair<int64_t, int64_t>> sums;  // running, waiting
  const auto models = catalog_.Get();
  for (const auto& [id, model] : models->by_id) sums[id].second = queue_.num_requests(id);
  std::set<std::string> seen;
  for (const auto& [key, replica] : fleet_.replicas()) {
    const ReplicaView view = ViewOf(replica);
    if (view.id.empty()) continue;  // never said hello
    sums[replica.hello.model_id()].first += replica.load.running();
    sums[replica.hello.model_id()].second += replica.load.waiting();
    seen.insert(replica.hello.replica_id());
    metrics_->SetReplica(
        {.replica = replica.hello.replica_id(),
         .model = replica.hello.model_id(),
         .state = ReplicaStateName(replica.state),
         .epoch = replica.hello.epoch(),
         .lease_age_seconds = static_cast<double>(now_ns - replica.last_frame_ns) / 1e9,
         .outstanding_tokens = view.load.uncached_tokens + view.load.sequences,
         .sequences = view.load.sequences});
  }
  for (const auto& [id, sum] : sums) metrics_->SetModel(id, sum.first, sum.second);
  for (const std::string& id : known_replicas_) {
    if (!seen.contains(id)) metrics_->RemoveReplica(id);
  }
  known_replicas_ = std::move(seen);
  {
    std::vector<v1::ReplicaInfo> infos = fleet_.Describe();
    const int64_t queued = num_preparing_ + queue_.num_requests();
    constexpr auto kWindow = static_cast<double>(SlidingCount::kWindowSeconds);
    const Activity activity{
        .queued_requests = queued,
        .queued_tokens = queue_.prompt_tokens(),
        .running_requests = static_cast<int64_t>(calls_.size()) - queued,
        .prompt_tokens_per_second =
            static_cast<double>(recent_prompt_tokens_.Sum(now_ns)) / kWindow,
        .generation_tokens_per_second = static_cast<double>(recent_tokens_.Sum(now_ns)) / kWindow};
    const std::lock_guard<std::mutex> lock(replicas_mutex_);
    replica_infos_ = std::move(infos);
    activity_ = activity;
  }
  stats_timer_ = loop_->RunAt(now_ns + kStatsIntervalNs, [this] { PublishStats(); });
}

void Dispatcher::SetLimits(QueueOptions queue, std::string policy) {
  loop_->Post([this, queue, policy = std::move(policy)] {
    queue_.SetOptions(queue);
    policy_ = FindPolicy(policy);
    policy_name_ = policy;
    PACELINE_CHECK(policy_ != nullptr, "unknown balancing policy");
  });
}

void Dispatcher::SetAddresses(std::vector<std::string> addresses) {
  loop_->Post([this, addresses = std::move(addresses)] { fleet_.SetAddresses(addresses); });
}

void Dispatcher::SetWorkers(WorkerAddresses workers) {
  loop_->Post(
      [this, workers = std::move(workers)]() mutable { fleet_.SetWorkers(std::move(workers)); });
}

void Dispatcher::DrainReplica(std::string name,
                              bool is_drained,
                              std::function<void(absl::Status)> done) {
  loop_->Post([this, name = std::move(name), is_drained, done = std::move(done)] {
    done(fleet_.Drain(name, is_drained));
  });
}

void Dispatcher::FlushPrefixCache(std::string model,
                                  std::function<void(absl::StatusOr<int32_t>)> done) {
  loop_->Post([this, model = std::move(model), done = std::move(done)] {
    if (!model.empty() && !catalog_.Get()->by_id.contains(model)) {
      return done(absl::NotFoundError("No replica of this server serves that model"));
    }
    int32_t count = 0;
    for (const auto& [key, replica] : fleet_.replicas()) {
      if (!replica.attached() || (!model.empty() && replica.hello.model_id() != model)) continue;
      v1::RouterMessage message;
      message.mutable_flush_prefix_cache();
      fleet_.Send(key, std::move(message));
      ++count;
    }
    done(count);
  });
}

std::variant<TokenizeResult, ApiError> Dispatcher::Tokenize(const v1::TokenizeRequest& request) {
  auto found = catalog_.Get()->Find(request.model());
  if (auto* error = std::get_if<ApiError>(&found)) return std::move(*error);
  const Model& model = *std::get<std::shared_ptr<const Model>>(found);
  if (request.text().empty() == request.messages().empty()) {
    return InvalidParam("text", "exactly one of text and messages is required");
  }
  TokenizeResult result;
  result.max_model_len = model.limits.max_model_len;
  if (!request.messages().empty()) {
    if (auto error = ValidateMessages(request.messages(), options_.limits)) {
      return *std::move(error);
    }
    auto prompt =
        model.text->RenderChat(request.messages(),
                               {.add_generation_prompt = !request.has_add_generation_prompt() ||
                                                         request.add_generation_prompt()});
    if (auto* error = std::get_if<ApiError>(&prompt)) return std::move(*error);
    auto& chat = std::get<RenderedChat>(prompt);
    result.token_ids = model.text->EncodeChat(chat);
    result.prompt = std::move(chat.text);
  } else {
    result.token_ids = model.text->EncodeText(
        request.text(), !request.has_add_special_tokens() || request.add_special_tokens());
  }
  if (request.return_token_strs()) {
    for (const int32_t id : result.token_ids) {
      result.token_strs.emplace_back(model.text->tokenizer()->TokenBytes(id));
    }
  }
  return result;
}

std::variant<std::string, ApiError> Dispatcher::Detokenize(const v1::DetokenizeRequest& request) {
  auto found = catalog_.Get()->Find(request.model());
  if (auto* error = std::get_if<ApiError>(&found)) return std::move(*error);
  const Model& model = *std::get<std::shared_ptr<const Model>>(found);
  if (auto error = ValidateTokenIds(request.token_ids(), model.limits.vocab_size, "token_ids")) {
    return *std::move(error);
  }
  const std::vector<int32_t> ids(request.token_ids().begin(), request.token_ids().end());
  return model.text->tokenizer()->Decode(ids, /*skip_special=*/false);
}

std::vector<v1::ModelInfo> Dispatcher::ListModels() {
  std::vector<v1::ModelInfo> infos;
  const auto models = catalog_.Get();  // a name: in the range itself it would be gone at once
  for (const auto& [id, model] : models->by_id) infos.push_back(model->info);
  return infos;
}

bool Dispatcher::Ready() { return catalog_.Get()->is_ready && !is_draining_; }

}  // namespace paceline::router
