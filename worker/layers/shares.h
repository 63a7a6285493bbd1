// How the columns of a matrix are dealt to the ranks of a tensor-parallel group, and how a rank
// gets the others' part. Each rank computes some columns whole, in the order of operations that one
// rank alone has, so results have the same bits whatever the number of ranks.
#ifndef PACELINE_WORKER_LAYERS_SHARES_H_
#define PACELINE_WORKER_LAYERS_SHARES_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "kernels/tensor_view.h"
#include "worker/comm/communicator.h"

namespace paceline::worker {

// Adjacent ranges of [0, total()), one a rank.
// How the ranks of a tensor-parallel group share the projections back to the hidden states.
enum class TensorMode {
  kExact,  // by outputs, gathered: the bits of one rank
  kFast,   // by inputs, added up in order of rank: half the exchanges, bits of its own
};

class Shares {
 public:
  // All of it is this one rank's.
  static Shares Whole(int64_t total) { return Shares({total}, 0); }
  // Whole units of `unit`, as even as can be; the last range takes what does not fill one.
  static Shares Even(int64_t total, int64_t unit, int num_ranks, int rank);
  // `ends` ascend; the last is the total.
  Shares(std::vector<int64_t> ends, int rank) : ends_(std::move(ends)), rank_(rank) {}

  int64_t total() const { return ends_.back(); }
  bool is_whole() const { return ends_.size() == 1; }
  int64_t begin() const { return rank_ == 0 ? 0 : ends_[rank_ - 1]; }
  int64_t end() const { return ends_[rank_]; }
  int64_t size() const { return end() - begin(); }
  // Of any rank.
  int64_t largest() const;
  const std::vector<int64_t>& ends() const { return ends_; }
  // Whether every rank has something.
  bool AllNonempty() const;

 private:
  std::vector<int64_t> ends_;  // [ranks]
  int rank_;
};

// This rank's columns of a matrix of shares.total() columns.
inline kernels::MutableMatrix OwnColumns(const kernels::MutableMatrix& x, const Shares& shares) {
  return x.Columns(shares.begin(), shares.size());
}

// Every rank has its columns of `x`; then all have all. Nothing to do without a communicator.
absl::Status GatherColumns(Communicator* comm,
                           const Shares& shares,
                           const kernels::MutableMatrix& x);  // [m, shares.total()] f32
// The same of a matmul's input: `own`, [m, shares.size()], is this rank's part of `x`.
// Shares are in columns, multiples of a block for int8.
absl::Status GatherColumns(Communicator* comm,
                           const Shares& shares,
                           const kernels::Activations& own,
                           kernels::Activations& x);  // [m, shares.total()]

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_LAYERS_SHARES_H_
