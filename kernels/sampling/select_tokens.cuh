// A row's tokens as keys that order as they rank, and how a block of threads finds the one at which
// weights, added up in that order, reach a target. Weights are whole numbers, so no sum depends on
// the order in which threads come.
#ifndef PACELINE_KERNELS_SAMPLING_SELECT_TOKENS_CUH_
#define PACELINE_KERNELS_SAMPLING_SELECT_TOKENS_CUH_

#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/device/block.cuh"
#include "kernels/sampling/logits_device.h"

namespace paceline::kernels {

constexpr int kRowThreads = 512;
constexpr int kRowWarps = kRowThreads / 32;
constexpr int kNumBins = 256;
constexpr int kMaxListed = 1024;

// Greater keys rank first: the logit's bits, made to order, and the complement of the id. 0 is no
// token.
__device__ __forceinline__ uint64_t KeyOf(float logit, int32_t id) {
  const uint32_t bits = device::FloatBits(logit + 0.0f);  // -0 is 0
  const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(id);
}
__device__ __forceinline__ int32_t IdOf(uint64_t key) {
  return static_cast<int32_t>(~static_cast<uint32_t>(key));
}
__device__ __forceinline__ float LogitOf(uint64_t key) {
  const auto ordered = static_cast<uint32_t>(key >> 32);
  return device::BitsToFloat((ordered & 0x80000000u) != 0 ? ordered & 0x7fffffffu : ~ordered);
}

// The tokens of a row that may be chosen.
struct RowTokens {
  const float* logits;
  int32_t vocab_size;
  const int32_t* allowed;  // null: all
  int32_t num_allowed;

  // Calls visit(logit, id) for this thread's share but for -infinity and NaN: runs of four
  // neighbours.
  template <typename Visit>
  __device__ __forceinline__ void ForEach(Visit visit) const {
    const int32_t count = allowed == nullptr ? vocab_size : num_allowed;
    for (int32_t first = 4 * device::ThreadPosition().x; first < count; first += 4 * kRowThreads) {
      for (int32_t i = first; i < first + 4 && i < count; ++i) {
        const int32_t id = allowed == nullptr ? i : allowed[i];
        if (id < 0 || id >= vocab_size) continue;
        const float logit = logits[id];
        if (logit > -INFINITY) visit(logit, id);
      }
    }
  }
};

__device__ __forceinline__ RowTokens AllTokens(const DeviceLogits& logits, int64_t row) {
  return {logits.data + row * logits.stride, logits.vocab_size, nullptr, 0};
}

// Shared memory of a block.
struct RowScratch {
  uint64_t sums[kNumBins];
  uint64_t keys[kMaxListed];
  uint64_t weights[kMaxListed];
  uint64_t reduce[kRowWarps];
  uint64_t found;
  uint32_t counts[kNumBins];
  uint32_t num_listed;
};
__device__ __forceinline__ RowScratch& Scratch() {
  return *reinterpret_cast<RowScratch*>(device::SharedMemory());
}

// The key of the best token, or 0.
__device__ __forceinline__ uint64_t BestKey(const RowTokens& tokens) {
  uint64_t best = 0;
  tokens.ForEach([&](float logit, int32_t id) {
    const uint64_t key = KeyOf(logit, id);
    best = key > best ? key : best;
  });
  return device::BlockMax<kRowWarps>(best, Scratch().reduce);
}

// Lists the tokens with keys in [low, high], at most kMaxListed, in any order.
template <typename WeightOf>
__device__ void ListTokens(
    const RowTokens& tokens, uint64_t low, uint64_t high, WeightOf weight_of, RowScratch& scratch) {
  if (device::ThreadPosition().x == 0) scratch.num_listed = 0;
  device::SyncThreads();
  tokens.ForEach([&](float logit, int32_t id) {
    const uint64_t key = KeyOf(logit, id);
    if (key < low || key > high) return;
    const uint32_t slot = device::AtomicAdd(&scratch.num_listed, 1u);
    scratch.keys[slot] = key;
    scratch.weights[slot] = weight_of(logit);
  });
  device::SyncThreads();
}

// Of the listed tokens and `above`, which all rank before them: the key at which the sum reaches
// the target.
__device__ __forceinline__ uint64_t FindInList(uint64_t above,
                                               uint64_t target,
                                               RowScratch& scratch) {
  const auto count = static_cast<int>(scratch.num_listed);
  for (int i = device::ThreadPosition().x; i < count; i += kRowThreads) {
    uint64_t before = above;
    for (int j = 0; j < count; ++j) {
      if (scratch.keys[j] > scratch.keys[i]) before += scratch.weights[j];
    }
    if (before < target && before + scratch.weights[i] >= target) scratch.found = scratch.keys[i];
  }
  device::SyncThreads();
  const uint64_t found = scratch.found;
  device::SyncThreads();
  return found;
}

// The key of the token at which weights, added in order of rank from `best` on, first reach
// `target`; 0 when they never do. Cuts the range of keys into 256 and goes on in the part where it
// happens, until few enough tokens are in it to compare them with one another. REQUIRES: target >
// 0.
template <typename WeightOf>
__device__ uint64_t FindLast(const RowTokens& tokens,
                             uint64_t best,
                             uint64_t target,
                             WeightOf weight_of,
                             RowScratch& scratch) {
  uint64_t low = 1;
  uint64_t high = best;
  uint64_t above = 0;
  while (true) {
    const int bits = 64 - device::CountLeadingZeros(high - low);
    const int shift = bits > 8 ? bits - 8 : 0;
    for (int i = device::ThreadPosition().x; i < kNumBins; i += kRowThreads) {
      scratch.sums[i] = 0;
      scratch.counts[i] = 0;
    }
    device::SyncThreads();
    tokens.ForEach([&](float logit, int32_t id) {
      const uint64_t key = KeyOf(logit, id);
      if (key < low || key > high) return;
      const auto bin = static_cast<int>((high - key) >> shift);
      device::AtomicAdd(&scratch.sums[bin], weight_of(logit));
      device::AtomicAdd(&scratch.counts[bin], 1u);
    });
    device::SyncThreads();
    int bin = 0;
    while (bin < kNumBins && above + scratch.sums[bin] < target) above += scratch.sums[bin++];
    const uint32_t count = bin < kNumBins ? scratch.counts[bin] : 0;
    device::SyncThreads();
    if (bin == kNumBins) return 0;
    high -= static_cast<uint64_t>(bin) << shift;
    if (shift == 0) return high;
    const uint64_t lowest = high - ((uint64_t{1} << shift) - 1);
    low = lowest > low && lowest < high ? lowest : low;
    if (count <= kMaxListed) {
      ListTokens(tokens, low, high, weight_of, scratch);
      return FindInList(above, target, scratch);
    }
  }
}

inline absl::Status CheckLogits(const char* op, const DeviceLogits& logits) {
  if (logits.num_rows > 0 && logits.vocab_size > 0 && logits.stride >= logits.vocab_size) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(op,
                                                 ": logits [",
                                                 logits.num_rows,
                                                 ", ",
                                                 logits.vocab_size,
                                                 "], rows ",
                                                 logits.stride,
                                                 " apart"));
}

}  // namespace paceline::kernels

#endif  // PACELINE_KERNELS_SAMPLING_SELECT_TOKENS_CUH_
