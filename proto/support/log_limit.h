// Keeps lines that strangers can cause, such as refused connections, from filling the log: one a
// second. Any thread.
#ifndef PACELINE_PROTO_SUPPORT_LOG_LIMIT_H_
#define PACELINE_PROTO_SUPPORT_LOG_LIMIT_H_

#include <atomic>
#include <cstdint>

#include "proto/support/clock.h"

namespace paceline {

class LogLimit {
 public:
  // Whether to write the line.
  bool Take(const Clock& clock = SteadyClock::Get()) {
    const int64_t now_ns = clock.NowNs();
    int64_t next_ns = next_ns_.load();
    return now_ns >= next_ns && next_ns_.compare_exchange_strong(next_ns, now_ns + 1'000'000'000);
  }

 private:
  std::atomic<int64_t> next_ns_{0};
};

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_LOG_LIMIT_H_
