#include "worker/comm/step.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace paceline::worker {
namespace {

std::string Name(const Step& step) {
  switch (step.operation) {
    case Operation::kAllReduce:
      return absl::StrCat("all_reduce of ", step.size, " elements of type ", step.detail);
    case Operation::kAllGather:
      return absl::StrCat("all_gather of shape ", absl::Hex(step.size));
    case Operation::kBroadcast:
      return absl::StrCat("broadcast of ", step.size, " bytes from rank ", step.detail);
    case Operation::kSend:
      return absl::StrCat("send or recv of ", step.size, " bytes");
  }
  return "an unknown operation";
}

}  // namespace

Step AllReduceStep(int64_t count, SumType type) {
  return {Operation::kAllReduce, static_cast<uint32_t>(type), static_cast<uint64_t>(count)};
}

Step AllGatherStep(int64_t num_rows, absl::Span<const int64_t> end_bytes) {
  uint64_t hash = static_cast<uint64_t>(num_rows);
  for (const int64_t end : end_bytes) {
    hash = (hash ^ static_cast<uint64_t>(end)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  return {Operation::kAllGather, 0, hash};
}

Step BroadcastStep(int64_t bytes, int root) {
  return {Operation::kBroadcast, static_cast<uint32_t>(root), static_cast<uint64_t>(bytes)};
}

Step SendStep(int64_t bytes) { return {Operation::kSend, 0, static_cast<uint64_t>(bytes)}; }

absl::Status CheckSameStep(const Step& ours, const Step& theirs, int peer) {
  if (ours == theirs) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("rank ", peer, " is in ", Name(theirs), ", this rank in ", Name(ours)));
}

}  // namespace paceline::worker
