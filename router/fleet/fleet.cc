#include "router/fleet/fleet.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "proto/tokenizer_digest.h"

namespace paceline::router {
namespace {

constexpr int64_t kMs = 1'000'000;     // nanoseconds
constexpr int64_t kTickNs = 20 * kMs;  // how late a lease, back-off or beat may be noticed
constexpr int64_t kFetchRetryMs = 1'000;
constexpr int32_t kProtocol = 1;

}  // namespace

Fleet::Fleet(FleetOptions options,
             EventLoop* loop,
             WorkerLinkFactory make_link,
             FleetListener* listener,
             ResolveFn resolve)
    : options_(std::move(options)),
      workers_(options_.workers),
      loop_(loop),
      make_link_(std::move(make_link)),
      listener_(listener),
      resolve_(resolve != nullptr ? std::move(resolve) : ResolveFn(ResolveAddresses)),
      self_(std::make_shared<Fleet*>(this)) {}

Fleet::~Fleet() {
  *self_ = nullptr;
  loop_->CancelTimer(tick_timer_);
}

void Fleet::Start() {
  AddMissing(workers_.fixed);
  last_tick_ns_ = loop_->clock().NowNs();
  Tick();
}

void Fleet::AddReplica(const std::string& address) {
  const int32_t key = next_key_++;
  Replica& replica = replicas_[key];
  replica.key = key;
  replica.address = address;
  replica.backoff_ms = options_.reconnect_min_ms;
}

void Fleet::Tick() {
  const int64_t now_ns = loop_->clock().NowNs();
  const int64_t late_ns = now_ns - last_tick_ns_ - kTickNs;
  for (auto& [key, replica] : replicas_) {
    // While this process did not run it could hear nobody: that time is no silence of a worker's.
    // Short delays count, or the silence of a real one would go unnoticed on a busy machine.
    if (late_ns > replica.hello.lease_ms() * kMs / 4) {
      replica.last_frame_ns = std::min(now_ns, replica.last_frame_ns + late_ns);
    }
    TickReplica(replica, now_ns);
  }
  last_tick_ns_ = now_ns;
  absl::erase_if(replicas_, [](const auto& entry) {
    return entry.second.is_removed && entry.second.state == ReplicaState::kLost;
  });
  if (!workers_.dns_name.empty() && now_ns >= next_resolve_ns_ && !is_resolving_) Resolve();
  tick_timer_ = loop_->RunAt(now_ns + kTickNs, [this] { Tick(); });
}

void Fleet::TickReplica(Replica& replica, int64_t now_ns) {
  const int64_t lease_ns = replica.hello.lease_ms() * kMs;
  if (replica.state == ReplicaState::kLost) {
    if (now_ns >= replica.next_open_ns && !replica.is_removed) Open(replica);
    return;
  }
  if (replica.is_leaving && replica.sent.sequences == 0) {
    Lose(replica, absl::CancelledError("it is no longer one of the workers"));
    return;
  }
  if (replica.state == ReplicaState::kConnecting) {
    if (now_ns - replica.last_frame_ns > options_.hello_timeout_ms * kMs) {
      Lose(replica, absl::DeadlineExceededError("no hello from the worker in time"));
    }
    return;
  }
  if (now_ns - replica.last_frame_ns > lease_ns) {
    Lose(replica, absl::DeadlineExceededError("the worker was silent for its lease"));
    return;
  }
  // A tick early, so that a beat is never more than lease / 4 after the last message.
  if (now_ns - replica.last_sent_ns + kTickNs >= lease_ns / 4) {
    v1::RouterMessage beat;
    beat.mutable_heartbeat();
    Send(replica.key, std::move(beat));
  }
  if (replica.state == ReplicaState::kLoading && now_ns >= replica.next_fetch_ns) {
    FetchTokenizer(replica);
  }
  if (replica.state == ReplicaState::kReady &&
      now_ns - replica.progress_ns > options_.stall_ms * kMs) {
    replica.state = ReplicaState::kStalled;
    spdlog::warn("replica {} makes no progress", replica.hello.replica_id());
    listener_->OnReplicaDown(
        replica, /*is_lost=*/false, absl::UnavailableError("the engine makes no progress"));
  }
}

void Fleet::Open(Replica& replica) {
  replica.state = ReplicaState::kConnecting;
  replica.last_frame_ns = loop_->clock().NowNs();
  const uint64_t attachment = ++replica.attachment;
  replica.link = make_link_(replica.address);
  // No callback outlives the link; `self` covers what was already posted when the fleet goes.
  replica.link->Open(
      [poster = loop_->poster(), self = self_, key = replica.key, attachment](LinkEvent event) {
        poster.Post([self, key, attachment, event = std::move(event)]() mutable {
          if (*self != nullptr) (*self)->OnEvent(key, attachment, std::move(event));
        });
      });
  v1::RouterMessage hello;
  hello.mutable_hello()->set_router_id(options_.router_id);
  hello.mutable_hello()->set_protocol(kProtocol);
  replica.last_sent_ns = replica.last_frame_ns;
  replica.link->Send(std::move(hello));
}

// A worker that is not there yet is nothing to worry about; one that cannot be used is, once.
void Fleet::LogRefusal(Replica& replica, const absl::Status& why) {
  std::string reason(why.message());
  const bool is_down = absl::StrContains(reason, "Failed to connect to remote host");
  if (absl::StrContains(reason, "Socket closed")) {
    reason += " (the worker has cut the connection: does it ask for TLS, or a certificate?)";
  }
  const bool is_news = !is_down && std::exchange(replica.refusal, reason) != reason;
  const auto level = is_news ? spdlog::level::warn : spdlog::level::debug;
  spdlog::log(level, "cannot attach to {}: {}", replica.address, reason);
}

void Fleet::Lose(Replica& replica, const absl::Status& why) {
  const bool was_attached = replica.attached();
  const bool was_ready = replica.state == ReplicaState::kReady;
  replica.state = ReplicaState::kLost;
  ++replica.attachment;  // fences what is still under way
  replica.link.reset();
  replica.prefixes.clear();
  replica.load.Clear();
  replica.next_open_ns = loop_->clock().NowNs() + replica.backoff_ms * kMs;
  replica.backoff_ms = std::min(replica.backoff_ms * 2, options_.reconnect_max_ms);
  if (!was_attached) {
    LogRefusal(replica, why);
    return;
  }
  spdlog::warn("lost replica {} at {} (epoch {}, {}): {}",
               replica.hello.replica_id(),
               replica.address,
               replica.hello.epoch(),
               was_ready ? "ready" : "not ready",
               std::string(why.message()));
  listener_->OnReplicaDown(replica, /*is_lost=*/true, why);
}

void Fleet::OnEvent(int32_t key, uint64_t attachment, LinkEvent event) {
  const auto found = replicas_.find(key);
  if (found == replicas_.end() || found->second.attachment != attachment) return;  // fenced
  Replica& replica = found->second;
  if (const auto* closed = std::get_if<LinkClosed>(&event)) {
    Lose(
        replica,
        closed->status.ok() ? absl::CancelledError("the worker ended the stream") : closed->status);
    return;
  }
  auto& message = std::get<v1::WorkerMessage>(event);
  if (message.has_hello()) {
    OnHello(replica, std::move(*message.mutable_hello()));
    return;
  }
  if (replica.state == ReplicaState::kConnecting) {
    Lose(replica, absl::FailedPreconditionError("the worker's first frame was no hello"));
    return;
  }
  replica.last_frame_ns = loop_->clock().NowNs();
  if (message.has_step()) {
    listener_->OnStepResult(replica, message.step());
    if (message.step().has_load()) OnLoadReport(replica, message.step().load());
  } else if (message.has_kv_events()) {
    const absl::Status status = ApplyKvEvents(
        message.kv_events(), 2 * static_cast<size_t>(replica.hello.num_blocks()), replica.prefixes);
    if (!status.ok()) Lose(replica, status);
  } else if (message.has_heartbeat() && message.heartbeat().has_load()) {
    OnLoadReport(replica, message.heartbeat().load());
  } else if (message.has_accepted()) {
    listener_->OnAccepted(replica, message.accepted());
  }
}

void Fleet::OnHello(Replica& replica, v1::WorkerHello hello) {
  if (replica.state != ReplicaState::kConnecting) {
    Lose(replica, absl::FailedPreconditionError("the worker said hello twice"));
    return;
  }
  if (absl::Status status = CheckHello(hello); !status.ok()) {
    spdlog::error("worker at {} refused: {}", replica.address, std::string(status.message()));
    Lose(replica, status);
    return;
  }
  if (hello.epoch() < replica.min_epoch) {
    Lose(replica,
         absl::FailedPreconditionError(absl::StrCat(
             "epoch ", hello.epoch(), " is older than ", replica.min_epoch, ", seen before")));
    return;
  }
  replica.min_epoch = hello.epoch();
  if (hello.epoch() != replica.hello.epoch()) replica.is_drained = false;
  replica.hello = std::move(hello);
  replica.load.Clear();
  replica.load.set_free_blocks(replica.hello.num_blocks());
  replica.load.set_total_blocks(replica.hello.num_blocks());
  replica.last_frame_ns = loop_->clock().NowNs();
  replica.progress_ns = replica.last_frame_ns;
  replica.state = ReplicaState::kLoading;
  if (tokenizers_.contains(replica.hello.tokenizer_digest())) {
    MakeReady(replica);
  } else {
    FetchTokenizer(replica);
  }
}

void Fleet::OnLoadReport(Replica& replica, const v1::Load& load) {
  const int64_t now_ns = loop_->clock().NowNs();
  if (load.step() != replica.load.step() || load.running() + load.waiting() == 0) {
    replica.progress_ns = now_ns;
    if (replica.state == ReplicaState::kStalled) MakeReady(replica);
  }
  replica.load = load;
  if (load.is_draining() && !replica.is_drained) {
    replica.is_drained = true;
    if (replica.state != ReplicaState::kLoading) MakeDraining(replica);
  }
  if (replica.state == ReplicaState::kReady) listener_->OnLoad(replica);
}

void Fleet::FetchTokenizer(Replica& replica) {
  const std::string& digest = replica.hello.tokenizer_digest();
  replica.next_fetch_ns = loop_->clock().NowNs() + 3600'000 * kMs;  // until this one has answered
  replica.link->GetTokenizer(
      digest,
      [poster = loop_->poster(),
       self = self_,
       key = replica.key,
       attachment = replica.attachment,
       digest](absl::StatusOr<v1::TokenizerBundle> bundle) {
        // Here and not on the loop: it reads megabytes.
        if (bundle.ok() && TokenizerDigest(*bundle) != digest) {
          bundle = absl::DataLossError("the tokenizer's contents do not have its digest");
        }
        poster.Post([self, key, attachment, digest, bundle = std::move(bundle)]() mutable {
          if (*self != nullptr) (*self)->OnTokenizer(key, attachment, digest, std::move(bundle));
        });
      });
}

void Fleet::OnTokenizer(int32_t key,
                        uint64_t attachment,
                        const std::string& digest,
                        absl::StatusOr<v1::TokenizerBundle> bundle) {
  const auto found = replicas_.find(key);
  if (found == replicas_.end() || found->second.attachment != attachment) return;
  Replica& replica = found->second;
  if (replica.state != ReplicaState::kLoading) return;
  if (!bundle.ok()) {
    spdlog::warn("replica {} gave no tokenizer: {}",
                 replica.hello.replica_id(),
                 std::string(bundle.status().message()));
    replica.next_fetch_ns = loop_->clock().NowNs() + kFetchRetryMs * kMs;
    return;
  }
  auto& slot = tokenizers_[digest];
  if (slot == nullptr) slot = std::make_shared<const v1::TokenizerBundle>(*std::move(bundle));
  // Others may wait for the same one; they find it here when their own fetch returns.
  MakeReady(replica);
}

void Fleet::MakeReady(Replica& replica) {
  replica.backoff_ms = options_.reconnect_min_ms;
  replica.refusal.clear();
  if (replica.is_drained) return MakeDraining(replica);
  replica.state = ReplicaState::kReady;
  replica.progress_ns = loop_->clock().NowNs();
  spdlog::info("replica {} at {} is ready: model {}, epoch {}, numerics {}",
               replica.hello.replica_id(),
               replica.address,
               replica.hello.model_id(),
               replica.hello.epoch(),
               replica.hello.numerics());
  listener_->OnReplicaUp(replica);
}

void Fleet::MakeDraining(Replica& replica) {
  replica.state = ReplicaState::kDraining;
  spdlog::info("replica {} at {} gets no new requests: it is drained",
               replica.hello.replica_id(),
               replica.address);
  listener_->OnReplicaDown(replica, /*is_lost=*/false, absl::UnavailableError("it is drained"));
}

absl::Status Fleet::Drain(const std::string& name, bool is_drained) {
  Replica* found = nullptr;
  for (auto& [key, replica] : replicas_) {
    if (!replica.attached() || (replica.hello.replica_id() != name && replica.address != name)) {
      continue;
    }
    if (found != nullptr) {
      return absl::InvalidArgumentError("Several replicas have that id: name one by its address");
    }
    found = &replica;
  }
  if (found == nullptr) return absl::NotFoundError("No attached replica has that id or address");
  found->is_drained = is_drained;
  const bool is_draining = found->state == ReplicaState::kDraining;
  if (found->state == ReplicaState::kLoading || is_drained == is_draining) return absl::OkStatus();
  is_drained ? MakeDraining(*found) : MakeReady(*found);
  return absl::OkStatus();
}

FleetSnapshot Fleet::Snapshot(const std::string& model) const {
  FleetSnapshot snapshot;
  for (const auto& [key, replica] : replicas_) {
    const bool shown =
        replica.state == ReplicaState::kReady || replica.state == ReplicaState::kStalled;
    if (shown && replica.hello.model_id() == model) snapshot.replicas.push_back(ViewOf(replica));
  }
  return snapshot;
}

const Replica* Fleet::Find(int32_t key) const {
  const auto found = replicas_.find(key);
  return found == replicas_.end() ? nullptr : &found->second;
}

void Fleet::Send(int32_t key, v1::RouterMessage message) {
  const auto found = replicas_.find(key);
  if (found == replicas_.end() || !found->second.attached()) return;
  found->second.last_sent_ns = loop_->clock().NowNs();
  found->second.link->Send(std::move(message));
}

void Fleet::AddFootprint(int32_t key, const Footprint& footprint) {
  const auto found = replicas_.find(key);
  if (found != replicas_.end()) found->second.sent += footprint;
}

void Fleet::SubtractFootprint(int32_t key, const Footprint& footprint) {
  const auto found = replicas_.find(key);
  if (found != replicas_.end()) found->second.sent -= footprint;
}

std::shared_ptr<const v1::TokenizerBundle> Fleet::Tokenizer(const std::string& digest) const {
  const auto found = tokenizers_.find(digest);
  return found == tokenizers_.end() ? nullptr : found->second;
}

std::vector<v1::ReplicaInfo> Fleet::Describe() const {
  const int64_t now_ns = loop_->clock().NowNs();
  std::vector<v1::ReplicaInfo> infos;
  for (const auto& [key, replica] : replicas_) {
    const ReplicaView view = ViewOf(replica);
    v1::ReplicaInfo& info = infos.emplace_back();
    info.set_id(replica.hello.replica_id());
    info.set_address(replica.address);
    info.set_model(replica.hello.model_id());
    info.set_state(ReplicaStateName(replica.state));
    info.set_epoch(replica.hello.epoch());
    info.set_lease_age_ms((now_ns - replica.last_frame_ns) / kMs);
    info.set_outstanding_tokens(view.load.uncached_tokens + view.load.sequences);
    info.set_running(replica.load.running());
    info.set_waiting(replica.load.waiting());
    info.set_free_blocks(replica.load.free_blocks());
    info.set_total_blocks(replica.load.total_blocks());
    info.set_numerics(replica.hello.numerics());
  }
  return infos;
}

void Fleet::Resolve() {
  is_resolving_ = true;
  // Look-ups may hang for seconds, so each has a thread; at most one runs at a time. It is
  // detached: it has copies only, and its answer may find the loop gone.
  std::thread([poster = loop_->poster(),
               self = self_,
               resolve = resolve_,
               name = workers_.dns_name,
               port = workers_.dns_port] {
    poster.Post([self, name, addresses = resolve(name, port)]() mutable {
      if (*self != nullptr) (*self)->OnResolved(name, std::move(addresses));
    });
  }).detach();
}

void Fleet::OnResolved(const std::string& name,
                       absl::StatusOr<std::vector<std::string>> addresses) {
  is_resolving_ = false;
  if (name != workers_.dns_name) return;  // the workers have changed meanwhile
  next_resolve_ns_ = loop_->clock().NowNs() + options_.resolve_interval_ms * kMs;
  if (!addresses.ok()) {
    spdlog::warn("workers: {}", std::string(addresses.status().message()));
    return;  // keep those known
  }
  const bool is_new_name = std::exchange(is_new_name_, false);
  for (auto& [key, replica] : replicas_) {
    if (std::binary_search(addresses->begin(), addresses->end(), replica.address)) continue;
    // A name may forget a worker that still runs; an operator means it.
    is_new_name ? Leave(replica, true) : void(replica.is_removed = true);
  }
  AddMissing(*addresses);
}

void Fleet::SetAddresses(const std::vector<std::string>& addresses) {
  for (auto& [key, replica] : replicas_) {
    if (std::find(addresses.begin(), addresses.end(), replica.address) == addresses.end()) {
      replica.is_removed = true;
    }
  }
  AddMissing(addresses);
}

// Those of `addresses` that are not there; those that were leaving stay after all.
void Fleet::AddMissing(const std::vector<std::string>& addresses) {
  for (const std::string& address : addresses) {
    const auto known = std::find_if(replicas_.begin(), replicas_.end(), [&](const auto& entry) {
      return entry.second.address == address;
    });
    known == replicas_.end() ? AddReplica(address) : Leave(known->second, false);
  }
}

void Fleet::Leave(Replica& replica, bool leaves) {
  replica.is_removed = leaves;
  if (replica.is_leaving == leaves) return;
  replica.is_leaving = leaves;
  replica.is_drained = leaves;
  if (leaves &&
      (replica.state == ReplicaState::kReady || replica.state == ReplicaState::kStalled)) {
    MakeDraining(replica);
  } else if (!leaves && replica.state == ReplicaState::kDraining) {
    MakeReady(replica);
  }
}

void Fleet::SetWorkers(WorkerAddresses workers) {
  const bool keeps_name = !workers.dns_name.empty() && workers.dns_name == workers_.dns_name &&
                          workers.dns_port == workers_.dns_port;
  workers_ = std::move(workers);
  if (keeps_name) return;
  is_new_name_ = !workers_.dns_name.empty();
  next_resolve_ns_ = 0;
  if (is_new_name_) return;
  const std::vector<std::string>& fixed = workers_.fixed;
  for (auto& [key, replica] : replicas_) {
    if (std::find(fixed.begin(), fixed.end(), replica.address) == fixed.end()) Leave(replica, true);
  }
  AddMissing(fixed);
}

}  // namespace paceline::router
