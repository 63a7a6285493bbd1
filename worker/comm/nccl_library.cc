#include "worker/comm/nccl_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

constexpr int kOldestVersion = 21800;

std::string VersionText(int code) {
  return absl::StrCat(code / 10000, ".", code / 100 % 100, ".", code % 100);
}

template <typename Function>
absl::Status Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  if (function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("NCCL has no ", name));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const NcclLibrary>> NcclLibrary::Load(const std::string& name) {
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("NCCL (2.18 or newer) cannot be loaded: ", dlerror()));
  }
  NcclResult (*get_version)(int*) = nullptr;
  RETURN_IF_ERROR(Find(library, "ncclGetVersion", get_version));
  int version = 0;
  if (get_version(&version) != kNcclSuccess || version < kOldestVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, " is NCCL ", VersionText(version), "; 2.18 or newer is needed"));
  }
  auto nccl = std::make_shared<NcclLibrary>();
  nccl->version = VersionText(version);
  RETURN_IF_ERROR(Find(library, "ncclGetUniqueId", nccl->get_unique_id));
  RETURN_IF_ERROR(Find(library, "ncclCommInitRankConfig", nccl->comm_init));
  RETURN_IF_ERROR(Find(library, "ncclCommAbort", nccl->comm_abort));
  RETURN_IF_ERROR(Find(library, "ncclCommGetAsyncError", nccl->async_error));
  RETURN_IF_ERROR(Find(library, "ncclAllGather", nccl->all_gather));
  RETURN_IF_ERROR(Find(library, "ncclAllReduce", nccl->all_reduce));
  RETURN_IF_ERROR(Find(library, "ncclSend", nccl->send));
  RETURN_IF_ERROR(Find(library, "ncclRecv", nccl->recv));
  RETURN_IF_ERROR(Find(library, "ncclGetErrorString", nccl->error_string));
  RETURN_IF_ERROR(Find(library, "ncclGetLastError", nccl->last_error));
  return nccl;
}

}  // namespace paceline::worker
