// How much memory this process may still use, and how much of it the KV cache should take. Reads
// the machine's files each time; any thread.
#ifndef PACELINE_WORKER_DEVICE_HOST_MEMORY_H_
#define PACELINE_WORKER_DEVICE_HOST_MEMORY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace paceline::worker {

struct HostMemory {
  int64_t machine_bytes = 0;    // installed
  int64_t available_bytes = 0;  // machine-wide, without swapping
  // The tightest memory limit of this process's cgroup and its parents (v1 or v2); -1: none.
  int64_t limit_bytes = -1;
  int64_t limit_used_bytes = 0;  // of limit_bytes, without file cache that can be dropped

  // What all processes under the same limits can ever have, and what is left of it.
  int64_t TotalBytes() const;
  int64_t FreeBytes() const;
};

// Memory of the machine whose files are under `root` ("/" is this one; tests make their own).
// Unavailable, naming the file, when /proc/meminfo cannot be read or understood.
absl::StatusOr<HostMemory> ReadHostMemory(const std::string& root = "/");

struct KvCacheNeeds {
  int64_t model_bytes = 0;      // the weights, not yet loaded
  int64_t bytes_per_token = 0;  // keys and values of all layers
  int32_t max_model_len = 0;    // tokens
  int32_t max_num_seqs = 0;
  int32_t num_replicas = 1;  // on this machine, this one included
};

struct KvCacheSize {
  int64_t bytes = 0;
  std::string explanation;  // one line for people, without a full stop
};

// Bytes of KV cache for one replica: what max_num_seqs full contexts need, but not more than
//   60 % of all memory after every replica's weights, divided among the replicas, nor
//   70 % of what is free now after its own weights, nor
//   4 GiB, unless one sequence of max_model_len needs more.
// ResourceExhausted, saying what to change, when not even one sequence of max_model_len fits.
// REQUIRES: all needs positive.
absl::StatusOr<KvCacheSize> SuggestKvCacheBytes(const KvCacheNeeds& needs,
                                                const HostMemory& memory);
// The same with this machine's memory as it is now.
absl::StatusOr<KvCacheSize> SuggestKvCacheBytes(const KvCacheNeeds& needs);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_DEVICE_HOST_MEMORY_H_
