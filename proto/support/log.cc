#include "proto/support/log.h"

#include <cstdlib>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace paceline {
namespace {

// Escapes a message for a JSON string; control bytes and invalid UTF-8 cannot break the line.
class JsonMessageFlag : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message,
              const std::tm&,
              spdlog::memory_buf_t& out) override {
    static constexpr char kHex[] = "0123456789abcdef";
    for (const char raw : message.payload) {
      const unsigned char c = static_cast<unsigned char>(raw);
      if (c == '"' || c == '\\') {
        out.push_back('\\');
        out.push_back(raw);
      } else if (c < 0x20 || c == 0x7f) {
        for (const char e : {'\\', 'u', '0', '0', kHex[c >> 4], kHex[c & 15]}) out.push_back(e);
      } else {
        out.push_back(raw);
      }
    }
  }
  std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JsonMessageFlag>();
  }
};

}  // namespace

void InitLog(std::string_view component, std::string_view level, LogFormat format) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>(std::string(component), std::move(sink));
  auto parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") parsed = spdlog::level::info;
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::trace);
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<JsonMessageFlag>('*');
  formatter->set_pattern(
      format == LogFormat::kJson
          ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","component":"%n","pid":%P,"message":"%*"})"
          : "%Y-%m-%d %H:%M:%S.%e %L %n[%P] %v");
  logger->set_formatter(std::move(formatter));
  spdlog::set_default_logger(std::move(logger));
}

void Die(const char* file, int line, std::string_view message) {
  spdlog::critical("{}:{}: {}", file, line, message);
  spdlog::default_logger()->flush();
  std::abort();
}

}  // namespace paceline
