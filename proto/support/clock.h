// Monotonic time behind an interface, so that deadlines, leases and rates are testable without
// sleep and immune to wall-clock jumps. Any thread.
#ifndef PACELINE_PROTO_SUPPORT_CLOCK_H_
#define PACELINE_PROTO_SUPPORT_CLOCK_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace paceline {

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds since an arbitrary fixed point; never goes back.
  virtual int64_t NowNs() const = 0;

  int64_t NowMs() const { return NowNs() / 1'000'000; }
};

class SteadyClock final : public Clock {
 public:
  int64_t NowNs() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  // The process's shared instance.
  static const SteadyClock& Get() {
    static const SteadyClock clock;
    return clock;
  }
};

// Moves only when told to.
class FakeClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_.load(); }
  void AdvanceMs(int64_t ms) { now_ns_.fetch_add(ms * 1'000'000); }

 private:
  std::atomic<int64_t> now_ns_{1'000'000'000};
};

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_CLOCK_H_
