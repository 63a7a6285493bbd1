// How ranks that each have a GPU exchange its memory: NCCL's operations, put on a stream, and the
// waiting for them, which ends when the group does. NCCL itself sees neither that a peer's process
// has ended nor that one hangs; the host's communicator of the same ranks (`control`) does, so a
// rank that waits looks there, too, and what ends either ends both, on all ranks. Owned by the
// model; one thread, whose device it is, and Abort by any.
//
// Errors, which `control`'s operations then give peers as Aborted; later calls return the same:
//   Unavailable         a peer died or left, or NCCL or the device met an error
//   DeadlineExceeded    the time-out passed: a peer hangs, or is in another operation
//   Aborted             Abort was called, or another rank met one of the above
//   Internal            NCCL does not take the call
#ifndef PACELINE_WORKER_COMM_NCCL_COMMUNICATOR_H_
#define PACELINE_WORKER_COMM_NCCL_COMMUNICATOR_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "worker/comm/communicator.h"
#include "worker/comm/nccl_library.h"

namespace paceline::worker {

class NcclSession;

// One group. Its operations are all ranks' in the same order; they return once NCCL has put them on
// the stream, which may take until the peers come: the first time, it connects to them.
class NcclCommunicator {
 public:
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Every rank's `own` to pieces[rank]. `own` may be there already.
  absl::Status AllGather(const void* own,  // [piece_bytes]
                         void* pieces,     // [size, piece_bytes]
                         int64_t piece_bytes,
                         NcclStream stream);
  // Whole numbers, which wrap: no order of additions shows.
  absl::Status AllReduceSum(int32_t* data, int64_t count, NcclStream stream);
  absl::Status Send(const void* data, int64_t bytes, int to, NcclStream stream);
  absl::Status Recv(void* data, int64_t bytes, int from, NcclStream stream);

 private:
  friend class NcclSession;
  NcclCommunicator(NcclSession& session, int rank, int size)
      : session_(session), rank_(rank), size_(size) {}
  absl::Status Run(const char* operation, absl::FunctionRef<NcclResult(const NcclLibrary&)> call);

  NcclSession& session_;
  const int rank_;
  const int size_;
  NcclHandle handle_ = nullptr;  // null once aborted
};

// All groups of one rank.
class NcclSession {
 public:
  // `control` outlives the session. With its time-out operations have one, too; without, none.
  NcclSession(std::shared_ptr<const NcclLibrary> library,
              Communicator& control,
              int64_t timeout_ms = kTimeoutMs)
      : library_(std::move(library)), control_(control), timeout_ms_(timeout_ms) {}
  // Leaves all groups. REQUIRES: peers are done with what this rank has sent.
  ~NcclSession();
  NcclSession(const NcclSession&) = delete;
  NcclSession& operator=(const NcclSession&) = delete;

  // Of a group that is to be, for one rank to make and all to know.
  absl::StatusOr<NcclUniqueId> MakeId();
  // Returns when all ranks of the group have come. The session's.
  absl::StatusOr<NcclCommunicator*> Join(const NcclUniqueId& id, int rank, int size);

  // Returns when done() is true, which asks how far the device is; its errors are the session's.
  absl::Status Await(const char* operation, absl::FunctionRef<absl::StatusOr<bool>()> done);

  // Any thread, more than once; the first reason stays.
  void Abort(std::string_view reason);

  const NcclLibrary& library() const { return *library_; }

 private:
  friend class NcclCommunicator;
  // Longer than a step; a rank that takes longer has stopped beating (pulse.h) long since.
  static constexpr int64_t kTimeoutMs = 20'000;

  // Why waiting has no end.
  absl::Status Look(int64_t start_ns);
  absl::Status ToStatus(NcclResult result, NcclHandle handle) const;
  // Ends all groups.
  absl::Status Fail(const char* operation, const absl::Status& status);

  const std::shared_ptr<const NcclLibrary> library_;
  Communicator& control_;
  const int64_t timeout_ms_;
  std::vector<std::unique_ptr<NcclCommunicator>> groups_;
  int64_t troubled_since_ns_ = 0;  // 0: peers are well
  absl::Status failure_;

  std::atomic<bool> aborted_ = false;
  std::mutex mutex_;
  std::string abort_reason_;  // guarded by mutex_
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_NCCL_COMMUNICATOR_H_
