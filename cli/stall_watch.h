// Sees that an engine hangs, by looks at its progress once a second. An idle engine makes progress
// every quarter of its lease. What the watching thread did
// not see does not count: a process that was stopped, or starved of its processor, is not hung.
// Not thread-safe.
#ifndef PACELINE_CLI_STALL_WATCH_H_
#define PACELINE_CLI_STALL_WATCH_H_

#include <algorithm>
#include <cstdint>

namespace paceline::cli {

constexpr int64_t kLookMs = 1'000;
constexpr int64_t kStalledMs = 8'000;  // or half the lease, if that is more

class StallWatch {
 public:
  explicit StallWatch(int64_t lease_ms) : stalled_ms_(std::max(kStalledMs, lease_ms / 2)) {}

  int64_t stalled_ms() const { return stalled_ms_; }

  // Given the time now and how long ago the last progress was: whether there has been none over
  // stalled_ms() of looks on time.
  bool IsStalled(int64_t now_ms, int64_t ms_since_progress) {
    const int64_t passed_ms = now_ms - last_look_ms_;
    last_look_ms_ = now_ms;
    const bool is_on_time = passed_ms <= 2 * kLookMs;
    still_ms_ = is_on_time && ms_since_progress > passed_ms ? still_ms_ + passed_ms : 0;
    return still_ms_ >= stalled_ms_;
  }

 private:
  const int64_t stalled_ms_;
  int64_t last_look_ms_ = -2 * kLookMs;
  int64_t still_ms_ = 0;
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_STALL_WATCH_H_
