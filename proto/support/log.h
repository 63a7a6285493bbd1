// Process-wide log: JSON lines or plain text on stderr, levels, never prompts or keys.
// Owned by the process; InitLog once in main before threads start, everything else from any thread.
#ifndef PACELINE_PROTO_SUPPORT_LOG_H_
#define PACELINE_PROTO_SUPPORT_LOG_H_

#include <string_view>

#include "spdlog/spdlog.h"

namespace paceline {

enum class LogFormat { kText, kJson };

// Sends all log output to stderr as one line a record, "component" naming the process in each.
// `level` is one of trace debug info warn error off; an unknown name means info.
void InitLog(std::string_view component, std::string_view level, LogFormat format);

// Logs `message` at critical level with file and line, flushes, and aborts.
[[noreturn]] void Die(const char* file, int line, std::string_view message);

}  // namespace paceline

// Broken invariants end the process in every build: a restart is cheap, a wrong answer is not.
#define PACELINE_CHECK(condition, message)          \
  do {                                              \
    if (!(condition)) [[unlikely]] {                \
      ::paceline::Die(__FILE__, __LINE__, message); \
    }                                               \
  } while (0)

#endif  // PACELINE_PROTO_SUPPORT_LOG_H_
