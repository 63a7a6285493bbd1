// How the ranks of one group (tensor-parallel, or pipeline-parallel) exchange data. Every rank has
// its own Communicator, made by a backend (shm_communicator.h, tcp_communicator.h). Owned by the
// engine or the rank loop; one thread calls the operations, any thread Abort.
//
// All ranks call the collective operations in the same order with the same sizes; a pair of ranks
// also sends and receives in the same order. Blocks until this rank's part is done.
//
// Errors. InvalidArgument: a parameter that this rank can check alone; nothing was sent. Anything
// else ends the group: this rank's later operations return the same error, and peers that are in an
// operation, or come to one, get Aborted with its text.
//   Unavailable         a peer died or left
//   DeadlineExceeded    the time-out of an operation passed
//   FailedPrecondition  a peer is in another operation, or in the same with another size
//   Aborted             Abort was called, or another rank met one of the above
// The text names this rank, the operation and the rank that is to blame.
//
// Operations return OK once their data is where it belongs; a peer that dies later is met by the
// next one. A group of one rank does nothing and never fails.
#ifndef PACELINE_WORKER_COMM_COMMUNICATOR_H_
#define PACELINE_WORKER_COMM_COMMUNICATOR_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace paceline::worker {

constexpr int kMaxCommRanks = 64;
constexpr int64_t kNoTimeout = std::numeric_limits<int64_t>::max();

enum class SumType { kF32, kI32, kI64 };

class Communicator {
 public:
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  // Leaves the group. Peers finish the operations that this rank has done its part of.
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  // What its operations have taken so far.
  int64_t waited_ns() const { return waited_ns_; }

  // Of every later operation, from its call. With kNoTimeout it waits as long as its peers live.
  void set_timeout_ms(int64_t timeout_ms) { timeout_ms_ = timeout_ms; }
  int64_t timeout_ms() const { return timeout_ms_; }

  // data[i] becomes the sum of every rank's data[i], added in rank order: ((x0 + x1) + x2) + …, so
  // every rank gets the same bits, whatever the backend. Integers wrap.
  absl::Status AllReduceSum(absl::Span<float> data);
  absl::Status AllReduceSum(absl::Span<int32_t> data);
  absl::Status AllReduceSum(absl::Span<int64_t> data);

  // Completes a row-major matrix of any element type of which each rank has computed some columns,
  // in place: rank r owns bytes [end_bytes[r - 1], end_bytes[r]) of each row, rank 0 from 0.
  // Shares may be empty. With one row it gathers vectors. The distance of rows is this rank's own.
  absl::Status AllGatherColumns(void* matrix,              // [num_rows, end_bytes[size - 1]]
                                int64_t num_rows,          //
                                int64_t row_stride_bytes,  // at least end_bytes[size - 1]
                                absl::Span<const int64_t> end_bytes);  // [size], ascending

  // `data` of `root` to everybody's `data`.
  absl::Status Broadcast(absl::Span<std::byte> data, int root);

  // To the one rank `to`, which calls Recv with the same size. Send returns once the data has been
  // taken over; as long as the backend has room that is before the peer receives it. Ranks of
  // several hosts may send to each other whatever the room: who waits takes in what comes.
  absl::Status Send(absl::Span<const std::byte> data, int to);
  absl::Status Recv(absl::Span<std::byte> data, int from);

  // Returns when every rank has called it.
  absl::Status Barrier();

  // What a rank that waits for its peers by other means would want to know, at once: Aborted as
  // above, or Unavailable when one died or left. Changes nothing.
  absl::Status CheckPeers();

  // Ends the group: everything that waits here or on other ranks returns Aborted with `reason`.
  // Any thread, any time, more than once; the first reason stays.
  virtual void Abort(std::string_view reason) = 0;

 protected:
  // This rank's columns of a matrix and those of others. REQUIRES: checked.
  struct ColumnShares {
    std::byte* matrix;
    int64_t num_rows;
    int64_t row_stride_bytes;
    absl::Span<const int64_t> end_bytes;

    int64_t begin(int rank) const { return rank == 0 ? 0 : end_bytes[rank - 1]; }
    int64_t width(int rank) const { return end_bytes[rank] - begin(rank); }
    int64_t bytes(int rank) const { return num_rows * width(rank); }
  };

  // REQUIRES: 0 <= rank < size <= kMaxCommRanks.
  Communicator(int rank, int size) : rank_(rank), size_(size) {}

 private:
  // The operations of a backend. They are called with checked parameters, in groups of at least two
  // ranks, never after one has failed; texts name the peer, not the operation or this rank.
  virtual absl::Status DoAllReduceSum(void* data, int64_t count, SumType type) = 0;
  virtual absl::Status DoAllGatherColumns(const ColumnShares& shares) = 0;
  virtual absl::Status DoBroadcast(absl::Span<std::byte> data, int root) = 0;
  virtual absl::Status DoSend(absl::Span<const std::byte> data, int to) = 0;
  virtual absl::Status DoRecv(absl::Span<std::byte> data, int from) = 0;
  virtual absl::Status DoCheckPeers() = 0;

  absl::Status AllReduceSum(void* data, int64_t count, SumType type);
  absl::Status CheckPeer(const char* operation, int peer) const;
  // Keeps the first failure and ends the group with it.
  absl::Status Finish(const char* operation, absl::Status status);

  const int rank_;
  const int size_;
  int64_t timeout_ms_ = kNoTimeout;
  int64_t waited_ns_ = 0;
  absl::Status failure_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_COMM_COMMUNICATOR_H_
