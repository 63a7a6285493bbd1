#include "worker/device/host_memory.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "proto/support/status_macros.h"
#include "worker/device/cgroup.h"

namespace paceline::worker {
namespace {

// Cached prefixes fill the whole cache in time, so a small model must not claim a large machine.
constexpr int64_t kMostUnasked = int64_t{4} << 30;
constexpr double kShareOfTotal = 0.6;
constexpr double kShareOfFree = 0.7;
constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max();

// The number in the line that starts with `key`, for files of lines "key value" or "key: value kB".
std::optional<int64_t> FieldOf(const std::string& text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<absl::string_view> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t value = 0;
    if (words.size() >= 2 && words[0] == key && absl::SimpleAtoi(words[1], &value)) return value;
  }
  return std::nullopt;
}

// Keeps the limit that leaves the least room.
void Tighten(std::optional<int64_t> limit,
             std::optional<int64_t> used,
             std::optional<int64_t> droppable,
             HostMemory& memory) {
  if (!limit || *limit >= memory.machine_bytes) return;
  const int64_t held = std::max<int64_t>(0, used.value_or(0) - droppable.value_or(0));
  if (memory.limit_bytes >= 0 && *limit - held >= memory.limit_bytes - memory.limit_used_bytes) {
    return;
  }
  memory.limit_bytes = *limit;
  memory.limit_used_bytes = held;
}

std::string Mebibytes(int64_t bytes) {
  const double mebibytes = static_cast<double>(bytes) / (1 << 20);
  return mebibytes < 10240 ? absl::StrFormat("%.0f MiB", mebibytes)
                           : absl::StrFormat("%.1f GiB", mebibytes / 1024);
}

int64_t Product(int64_t a, int64_t b) { return a > kMaxBytes / b ? kMaxBytes : a * b; }

}  // namespace

int64_t HostMemory::TotalBytes() const {
  return limit_bytes < 0 ? machine_bytes : std::min(machine_bytes, limit_bytes);
}

int64_t HostMemory::FreeBytes() const {
  if (limit_bytes < 0) return available_bytes;
  return std::min(available_bytes, std::max<int64_t>(0, limit_bytes - limit_used_bytes));
}

absl::StatusOr<HostMemory> ReadHostMemory(const std::string& root) {
  const std::string text = ReadSmallFile(absl::StrCat(root, "/proc/meminfo")).value_or("");
  const std::optional<int64_t> total_kib = FieldOf(text, "MemTotal:");
  if (!total_kib) return absl::UnavailableError("/proc/meminfo: no MemTotal");
  // Before Linux 3.14 there is no MemAvailable.
  const std::optional<int64_t> available_kib = FieldOf(text, "MemAvailable:");
  HostMemory memory;
  memory.machine_bytes = *total_kib * 1024;
  memory.available_bytes = available_kib.value_or(FieldOf(text, "MemFree:").value_or(0) +
                                                  FieldOf(text, "Cached:").value_or(0)) *
                           1024;
  const CgroupFolders groups = FindCgroups(root, "memory");
  for (const std::string& folder : groups.v2) {
    const std::string stat = ReadSmallFile(folder + "/memory.stat").value_or("");
    Tighten(ReadInteger(folder + "/memory.max"),
            ReadInteger(folder + "/memory.current"),
            FieldOf(stat, "inactive_file"),
            memory);
  }
  for (const std::string& folder : groups.v1) {
    const std::string stat = ReadSmallFile(folder + "/memory.stat").value_or("");
    Tighten(ReadInteger(folder + "/memory.limit_in_bytes"),
            ReadInteger(folder + "/memory.usage_in_bytes"),
            FieldOf(stat, "total_inactive_file"),
            memory);
  }
  return memory;
}

absl::StatusOr<KvCacheSize> SuggestKvCacheBytes(const KvCacheNeeds& needs,
                                                const HostMemory& memory) {
  const int64_t replicas = needs.num_replicas;
  const int64_t one_sequence = Product(needs.bytes_per_token, needs.max_model_len);
  const int64_t all_sequences = Product(one_sequence, needs.max_num_seqs);
  const int64_t after_weights = memory.TotalBytes() - Product(needs.model_bytes, replicas);
  const int64_t of_total =
      static_cast<int64_t>(kShareOfTotal * static_cast<double>(after_weights)) / replicas;
  const int64_t of_free = static_cast<int64_t>(
      kShareOfFree * static_cast<double>(memory.FreeBytes() - needs.model_bytes));
  const int64_t unasked = std::max(kMostUnasked, one_sequence);
  const int64_t bytes = std::max<int64_t>(0, std::min({all_sequences, of_total, of_free, unasked}));

  const std::string room =
      absl::StrCat(Mebibytes(memory.FreeBytes()),
                   " free of ",
                   Mebibytes(memory.TotalBytes()),
                   memory.TotalBytes() < memory.machine_bytes ? " (the container's limit)" : "");
  if (bytes < one_sequence) {
    return absl::ResourceExhaustedError(
        absl::StrCat("memory: one sequence of ",
                     needs.max_model_len,
                     " tokens needs ",
                     Mebibytes(one_sequence),
                     " of KV cache beside ",
                     Mebibytes(needs.model_bytes),
                     " of weights, but only ",
                     Mebibytes(bytes),
                     " can be had (",
                     room,
                     ", ",
                     replicas,
                     replicas == 1 ? " replica" : " replicas",
                     "); lower --max-model-len or set --kv-cache-memory"));
  }
  KvCacheSize size;
  size.bytes = bytes;
  if (bytes == all_sequences) {
    size.explanation = absl::StrCat("enough for ",
                                    needs.max_num_seqs,
                                    " sequences of ",
                                    needs.max_model_len,
                                    " tokens; ",
                                    room);
  } else if (bytes == unasked) {
    size.explanation =
        absl::StrCat("the most that is taken unasked, see --kv-cache-memory; ", room);
  } else if (bytes == of_total) {
    size.explanation = absl::StrFormat(
        "%.0f%% of the memory after weights%s; %s",
        100 * kShareOfTotal,
        replicas == 1 ? std::string() : absl::StrCat(", shared by ", replicas, " replicas"),
        room);
  } else {
    size.explanation =
        absl::StrFormat("%.0f%% of what is free after weights; %s", 100 * kShareOfFree, room);
  }
  return size;
}

absl::StatusOr<KvCacheSize> SuggestKvCacheBytes(const KvCacheNeeds& needs) {
  ASSIGN_OR_RETURN(const HostMemory memory, ReadHostMemory());
  return SuggestKvCacheBytes(needs, memory);
}

}  // namespace paceline::worker
