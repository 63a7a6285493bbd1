#include "worker/comm/nccl_communicator.h"

#include <sched.h>

#include <chrono>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "proto/support/clock.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kLookNs = 20 * kMs;  // between looks at what may be wrong
constexpr int64_t kSpinNs = 50 * kMs;  // a step; what takes longer may sleep
constexpr auto kNap = std::chrono::microseconds(100);
// A peer that has left or died may have done its part of what this rank waits for.
constexpr int64_t kLastWordsNs = 200 * kMs;

int64_t NowNs() { return SteadyClock::Get().NowNs(); }

}  // namespace

absl::Status NcclCommunicator::Run(const char* operation,
                                   absl::FunctionRef<NcclResult(const NcclLibrary&)> call) {
  if (!session_.failure_.ok()) return session_.failure_;
  const NcclResult result = call(*session_.library_);
  if (result == kNcclSuccess) return absl::OkStatus();
  if (result != kNcclInProgress) {
    return session_.Fail(operation, session_.ToStatus(result, handle_));
  }
  return session_.Await(operation, [this]() -> absl::StatusOr<bool> {
    NcclResult state = kNcclSuccess;
    RETURN_IF_ERROR(session_.ToStatus(session_.library_->async_error(handle_, &state), handle_));
    if (state == kNcclInProgress) return false;
    RETURN_IF_ERROR(session_.ToStatus(state, handle_));
    return true;
  });
}

absl::Status NcclCommunicator::AllGather(const void* own,
                                         void* pieces,
                                         int64_t piece_bytes,
                                         NcclStream stream) {
  return Run("all_gather", [&](const NcclLibrary& nccl) {
    return nccl.all_gather(own, pieces, piece_bytes, kNcclInt8, handle_, stream);
  });
}

absl::Status NcclCommunicator::AllReduceSum(int32_t* data, int64_t count, NcclStream stream) {
  return Run("all_reduce", [&](const NcclLibrary& nccl) {
    return nccl.all_reduce(data, data, count, kNcclInt32, kNcclSum, handle_, stream);
  });
}

absl::Status NcclCommunicator::Send(const void* data, int64_t bytes, int to, NcclStream stream) {
  return Run("send", [&](const NcclLibrary& nccl) {
    return nccl.send(data, bytes, kNcclInt8, to, handle_, stream);
  });
}

absl::Status NcclCommunicator::Recv(void* data, int64_t bytes, int from, NcclStream stream) {
  return Run("recv", [&](const NcclLibrary& nccl) {
    return nccl.recv(data, bytes, kNcclInt8, from, handle_, stream);
  });
}

// Not ncclCommDestroy, which waits for ranks that may be gone.
NcclSession::~NcclSession() {
  for (const auto& group : groups_) {
    if (group->handle_ != nullptr) library_->comm_abort(group->handle_);
  }
}

absl::StatusOr<NcclUniqueId> NcclSession::MakeId() {
  NcclUniqueId id;
  const absl::Status status = ToStatus(library_->get_unique_id(&id), nullptr);
  if (!status.ok()) return Fail("unique id", status);
  return id;
}

absl::StatusOr<NcclCommunicator*> NcclSession::Join(const NcclUniqueId& id, int rank, int size) {
  groups_.emplace_back(new NcclCommunicator(*this, rank, size));
  NcclCommunicator& group = *groups_.back();
  RETURN_IF_ERROR(group.Run("join", [&](const NcclLibrary& nccl) {
    NcclConfig config;
    return nccl.comm_init(&group.handle_, size, id, rank, &config);
  }));
  return &group;
}

absl::Status NcclSession::Await(const char* operation,
                                absl::FunctionRef<absl::StatusOr<bool>()> done) {
  if (!failure_.ok()) return failure_;
  const int64_t start_ns = NowNs();
  int64_t look_ns = start_ns + kLookNs;
  for (;;) {
    const absl::StatusOr<bool> is_done = done();
    if (!is_done.ok()) return Fail(operation, is_done.status());
    if (*is_done) return absl::OkStatus();
    const int64_t now_ns = NowNs();
    if (aborted_.load(std::memory_order_relaxed) || now_ns >= look_ns) {
      if (absl::Status status = Look(start_ns); !status.ok()) return Fail(operation, status);
      look_ns = now_ns + kLookNs;
    }
    if (now_ns - start_ns < kSpinNs) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(kNap);
    }
  }
}

absl::Status NcclSession::Look(int64_t start_ns) {
  if (aborted_.load()) {
    const std::lock_guard lock(mutex_);
    return absl::AbortedError(abort_reason_);
  }
  for (const auto& group : groups_) {
    if (group->handle_ == nullptr) continue;
    NcclResult state = kNcclSuccess;
    RETURN_IF_ERROR(ToStatus(library_->async_error(group->handle_, &state), group->handle_));
    if (state != kNcclInProgress) RETURN_IF_ERROR(ToStatus(state, group->handle_));
  }
  const int64_t now_ns = NowNs();
  const absl::Status peers = control_.CheckPeers();
  if (peers.ok()) {
    troubled_since_ns_ = 0;
  } else if (!absl::IsUnavailable(peers)) {
    return peers;
  } else if (troubled_since_ns_ == 0) {
    troubled_since_ns_ = now_ns;
  } else if (now_ns - troubled_since_ns_ >= kLastWordsNs) {
    return peers;
  }
  if (control_.timeout_ms() == kNoTimeout || now_ns - start_ns < timeout_ms_ * kMs) {
    return absl::OkStatus();
  }
  return absl::DeadlineExceededError(
      absl::StrCat("not done for ", timeout_ms_, " ms; NCCL does not say which rank it waits for"));
}

absl::Status NcclSession::ToStatus(NcclResult result, NcclHandle handle) const {
  if (result == kNcclSuccess || result == kNcclInProgress) return absl::OkStatus();
  std::string text = absl::StrCat("NCCL: ", library_->error_string(result));
  const char* const more = library_->last_error(handle);
  if (more != nullptr && *more != '\0') absl::StrAppend(&text, ": ", more);
  const bool is_ours = result == kNcclInvalidArgument || result == kNcclInvalidUsage;
  return is_ours ? absl::InternalError(text) : absl::UnavailableError(text);
}

absl::Status NcclSession::Fail(const char* operation, const absl::Status& status) {
  failure_ = absl::Status(
      status.code(),
      absl::StrCat("rank ", control_.rank(), ": NCCL ", operation, ": ", status.message()));
  if (!absl::IsAborted(failure_)) control_.Abort(std::string(failure_.message()));
  // What is on the device ends, too.
  for (const auto& group : groups_) {
    if (group->handle_ != nullptr) library_->comm_abort(group->handle_);
    group->handle_ = nullptr;
  }
  return failure_;
}

void NcclSession::Abort(std::string_view reason) {
  {
    const std::lock_guard lock(mutex_);
    if (aborted_.load()) return;
    abort_reason_ = std::string(reason);
    aborted_.store(true);
  }
  control_.Abort(reason);
}

}  // namespace paceline::worker
