// Counts over a sliding window, and the two decisions that rest on them: how long a rejected caller
// should wait, and whether a retry is within budget. Owned by Dispatcher; its loop thread only.
#ifndef PACELINE_ROUTER_ADMISSION_RATES_H_
#define PACELINE_ROUTER_ADMISSION_RATES_H_

#include <algorithm>
#include <array>
#include <cstdint>

namespace paceline::router {

// Events of the last ten seconds, in steps of one.
class SlidingCount {
 public:
  static constexpr int64_t kWindowSeconds = 10;

  void Add(int64_t now_ns, int64_t count = 1) {
    Advance(now_ns);
    counts_[second_ % kWindowSeconds] += count;
    sum_ += count;
  }
  int64_t Sum(int64_t now_ns) {
    Advance(now_ns);
    return sum_;
  }

 private:
  void Advance(int64_t now_ns) {
    const int64_t now = now_ns / 1'000'000'000;
    if (now - second_ >= kWindowSeconds) {
      counts_.fill(0);
      sum_ = 0;
      second_ = now;
    }
    while (second_ < now) {
      int64_t& slot = counts_[++second_ % kWindowSeconds];
      sum_ -= slot;
      slot = 0;
    }
  }

  std::array<int64_t, kWindowSeconds> counts_{};
  int64_t sum_ = 0;
  int64_t second_ = 0;
};

// How long `queued` requests take to leave at the rate at which they left lately; 1 to 60 s.
inline int64_t RetryAfterMs(int64_t queued, int64_t left_in_window) {
  if (left_in_window <= 0) return queued > 0 ? 5'000 : 1'000;
  const int64_t ms = queued * SlidingCount::kWindowSeconds * 1000 / left_in_window;
  return std::clamp<int64_t>(ms, 1'000, 60'000);
}

struct RetryBudgetOptions {
  double ratio = 0.1;  // of the requests of the last ten seconds
  int64_t min_per_second = 10;
};

// Bounds retries to a share of requests, so that a failing fleet is not hit harder for failing.
class RetryBudget {
 public:
  explicit RetryBudget(const RetryBudgetOptions& options) : options_(options) {}

  void CountRequest(int64_t now_ns) { requests_.Add(now_ns); }
  // Takes one retry out of the budget; false, and nothing taken, when it is spent.
  bool Take(int64_t now_ns) {
    const auto share =
        static_cast<int64_t>(options_.ratio * static_cast<double>(requests_.Sum(now_ns)));
    const int64_t floor = options_.min_per_second * SlidingCount::kWindowSeconds;
    if (retries_.Sum(now_ns) >= std::max(share, floor)) return false;
    retries_.Add(now_ns);
    return true;
  }

 private:
  const RetryBudgetOptions options_;
  SlidingCount requests_;
  SlidingCount retries_;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_ADMISSION_RATES_H_
