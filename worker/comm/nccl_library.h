// NVIDIA's library of exchanges between GPUs, which is loaded when it is asked for, so that a
// binary starts without it. Immutable once loaded; any thread.
#ifndef PACELINE_WORKER_COMM_NCCL_LIBRARY_H_
#define PACELINE_WORKER_COMM_NCCL_LIBRARY_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace paceline::worker {

// What is used of NCCL's interface (nccl.h), whose header the toolkit may not bring.
struct NcclUniqueId {
  char bytes[128];
};
using NcclHandle = void*;  // ncclComm_t
using NcclStream = void*;  // cudaStream_t
using NcclResult = int;
constexpr NcclResult kNcclSuccess = 0;
constexpr NcclResult kNcclInvalidArgument = 4;
constexpr NcclResult kNcclInvalidUsage = 5;
constexpr NcclResult kNcclInProgress = 7;
constexpr int kNcclInt8 = 0;
constexpr int kNcclInt32 = 2;
constexpr int kNcclSum = 0;

// ncclConfig_t as it was in 2.14; NCCL fills in what later versions have added.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21400;
  int blocking = 0;
};

struct NcclLibrary {
  // FailedPrecondition says what is missing: the library, a version of 2.18 or newer (what the
  // toolkits of CUDA 12 for Hopper came with; nothing older was looked at), or a function. It stays
  // loaded until the process ends: its threads may live longer than what they served.
  static absl::StatusOr<std::shared_ptr<const NcclLibrary>> Load(const std::string& name);

  std::string version;  // "2.28.9"

  NcclResult (*get_unique_id)(NcclUniqueId* id) = nullptr;
  NcclResult (*comm_init)(NcclHandle*, int size, NcclUniqueId, int rank, NcclConfig*) = nullptr;
  NcclResult (*comm_abort)(NcclHandle) = nullptr;
  NcclResult (*async_error)(NcclHandle, NcclResult* state) = nullptr;
  NcclResult (*all_gather)(
      const void* own, void* all, size_t count, int type, NcclHandle, NcclStream) = nullptr;
  NcclResult (*all_reduce)(
      const void* in, void* out, size_t count, int type, int op, NcclHandle, NcclStream) = nullptr;
  NcclResult (*send)(const void*, size_t count, int type, int to, NcclHandle, NcclStream) = nullptr;
  NcclResult (*recv)(void*, size_t count, int type, int from, NcclHandle, NcclStream) = nullptr;
  const char* (*error_string)(NcclResult) = nullptr;
  const char* (*last_error)(NcclHandle) = nullptr;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_NCCL_LIBRARY_H_
