#include "router/fleet/replica.h"

#include <algorithm>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace paceline::router {
namespace {

constexpr int32_t kProtocol = 1;
constexpr size_t kMaxNameBytes = 256;
constexpr size_t kHashBytes = 16;

uint64_t LoadLittleEndian(const char* bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

BlockHash HashAt(std::string_view bytes, size_t index) {
  const char* at = bytes.data() + index * kHashBytes;
  return BlockHash{.high = LoadLittleEndian(at), .low = LoadLittleEndian(at + 8)};
}

}  // namespace

std::string ReplicaStateName(ReplicaState state) {
  switch (state) {
    case ReplicaState::kConnecting:
      return "connecting";
    case ReplicaState::kLoading:
      return "loading";
    case ReplicaState::kReady:
      return "ready";
    case ReplicaState::kStalled:
      return "stalled";
    case ReplicaState::kDraining:
      return "draining";
    case ReplicaState::kLost:
      return "lost";
  }
  return "lost";
}

absl::Status CheckHello(const v1::WorkerHello& hello) {
  if (hello.protocol() != kProtocol) {
    return absl::FailedPreconditionError(
        absl::StrCat("the worker speaks protocol ", hello.protocol(), ", this router ", kProtocol));
  }
  const auto is_name = [](const std::string& name) {
    return !name.empty() && name.size() <= kMaxNameBytes;
  };
  if (!is_name(hello.model_id()) || !is_name(hello.replica_id()) ||
      !is_name(hello.tokenizer_digest()) || !is_name(hello.numerics())) {
    return absl::InvalidArgumentError(
        "hello: model_id, replica_id, tokenizer_digest or numerics is bad");
  }
  const auto within = [](int64_t value, int64_t low, int64_t high) {
    return value >= low && value <= high;
  };
  if (!within(hello.block_size(), 1, 1 << 16) || !within(hello.num_blocks(), 1, INT32_MAX) ||
      !within(hello.max_model_len(), 1, INT32_MAX) || !within(hello.max_num_seqs(), 1, 1 << 20) ||
      !within(hello.vocab_size(), 1, 1 << 26) || !within(hello.lease_ms(), 20, 600'000)) {
    return absl::InvalidArgumentError("hello: a size or the lease is out of range");
  }
  return absl::OkStatus();
}

absl::Status ApplyKvEvents(const v1::KvEvents& events, size_t max_blocks, PrefixIndex& index) {
  if (events.stored().size() % kHashBytes != 0 || events.removed().size() % kHashBytes != 0) {
    return absl::InvalidArgumentError("kv_events: not whole hashes");
  }
  if (events.reset()) index.clear();
  for (size_t i = 0; i < events.removed().size() / kHashBytes; ++i) {
    index.erase(HashAt(events.removed(), i));
  }
  for (size_t i = 0; i < events.stored().size() / kHashBytes; ++i) {
    if (index.size() >= max_blocks) break;
    index.insert(HashAt(events.stored(), i));
  }
  return absl::OkStatus();
}

ReplicaView ViewOf(const Replica& replica) {
  const v1::WorkerHello& hello = replica.hello;
  const v1::Load& load = replica.load;
  const int64_t used_blocks = static_cast<int64_t>(load.total_blocks()) - load.free_blocks();
  const int64_t sequences = static_cast<int64_t>(load.running()) + load.waiting();
  return ReplicaView{
      .key = replica.key,
      .id = hello.replica_id(),
      .is_ready = replica.state == ReplicaState::kReady,
      .model_digest = hello.model_digest(),
      .tokenizer_digest = hello.tokenizer_digest(),
      .numerics = hello.numerics(),
      .block_size = std::max(hello.block_size(), 1),
      .num_blocks = hello.num_blocks(),
      .max_model_len = hello.max_model_len(),
      .max_num_seqs = hello.max_num_seqs(),
      .load = Footprint{.uncached_tokens =
                            std::max(replica.sent.uncached_tokens, load.waiting_tokens()),
                        .blocks = std::max(replica.sent.blocks, used_blocks),
                        .sequences = std::max(replica.sent.sequences, sequences)},
      .own_sequences = replica.sent.sequences,
      .routers = std::max(load.routers(), 1),
      .prefixes = &replica.prefixes,
  };
}

}  // namespace paceline::router
