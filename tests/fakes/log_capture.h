// Everything that the process logs while it lives, as text. Owned by the test; make it before other
// threads log, destroy it after.
#ifndef PACELINE_TESTS_FAKES_LOG_CAPTURE_H_
#define PACELINE_TESTS_FAKES_LOG_CAPTURE_H_

#include <memory>
#include <sstream>
#include <string>

#include "proto/support/log_format.h"
#include "spdlog/sinks/ostream_sink.h"
#include "spdlog/spdlog.h"

namespace paceline {

class LogCapture {
 public:
  LogCapture() : before_(spdlog::default_logger()) {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_);
    auto logger = std::make_shared<spdlog::logger>("capture", std::move(sink));
    logger->set_formatter(MakeLogFormatter("%l %v%~"));
    logger->set_level(spdlog::level::trace);
    spdlog::set_default_logger(std::move(logger));
  }
  ~LogCapture() { spdlog::set_default_logger(before_); }
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;

  // REQUIRES: no other thread logs.
  std::string text() const { return text_.str(); }

 private:
  const std::shared_ptr<spdlog::logger> before_;
  std::ostringstream text_;
};

}  // namespace paceline

#endif  // PACELINE_TESTS_FAKES_LOG_CAPTURE_H_
