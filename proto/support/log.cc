#include "proto/support/log.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>

#include "proto/support/log_format.h"
#include "proto/support/trace.h"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace paceline {
namespace {

thread_local const LogRequest* current_request = nullptr;
std::atomic<bool> logs_json{false};

void Append(std::string_view text, spdlog::memory_buf_t& out) {
  out.append(text.data(), text.data() + text.size());
}

// Bytes of the UTF-8 character at the beginning of `text`; 0: there is none.
size_t CharacterBytes(std::string_view text) {
  const auto byte = [&text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t count = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < count) return 0;
  for (size_t i = 1; i < count; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool is_overlong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
  const bool is_beyond = (lead == 0xed && byte(1) > 0x9f) || (lead == 0xf4 && byte(1) > 0x8f);
  return is_overlong || is_beyond ? 0 : count;
}

// The inside of a JSON string: neither control bytes nor invalid UTF-8 can break the line.
void AppendEscaped(std::string_view text, spdlog::memory_buf_t& out) {
  static constexpr char kHex[] = "0123456789abcdef";
  while (!text.empty()) {
    const auto c = static_cast<unsigned char>(text[0]);
    const size_t count = CharacterBytes(text);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(text[0]);
    } else if (c < 0x20 || c == 0x7f) {
      for (const char e : {'\\', 'u', '0', '0', kHex[c >> 4], kHex[c & 15]}) out.push_back(e);
    } else if (count == 0) {
      Append("\\ufffd", out);
    } else {
      Append(text.substr(0, count), out);
    }
    text.remove_prefix(std::max<size_t>(1, count));
  }
}

template <void (*kFormat)(const spdlog::details::log_msg&, spdlog::memory_buf_t&)>
class Flag : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message,
              const std::tm&,
              spdlog::memory_buf_t& out) override {
    kFormat(message, out);
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<Flag>(); }
};

void FormatMessage(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) {
  AppendEscaped({message.payload.data(), message.payload.size()}, out);
}

void FormatRequest(const spdlog::details::log_msg&, spdlog::memory_buf_t& out) {
  const auto append = [&out](std::string_view name, std::string_view value) {
    if (value.empty()) return;
    Append(",\"", out);
    Append(name, out);
    Append("\":\"", out);
    AppendEscaped(value, out);
    out.push_back('"');
  };
  if (current_request == nullptr) return;
  append("request_id", current_request->request_id());
  if (current_request->traceparent().empty()) return;
  append("trace_id", TraceIdOf(current_request->traceparent()));
  append("span_id", ParentIdOf(current_request->traceparent()));
}

void FormatTrace(const spdlog::details::log_msg&, spdlog::memory_buf_t& out) {
  if (current_request == nullptr || current_request->traceparent().empty()) return;
  Append(" trace_id=", out);
  Append(TraceIdOf(current_request->traceparent()), out);
}

}  // namespace

LogRequest::LogRequest(std::string_view request_id, std::string_view traceparent)
    : request_id_(request_id), traceparent_(traceparent), outer_(current_request) {
  current_request = this;
}

LogRequest::~LogRequest() { current_request = outer_; }

std::unique_ptr<spdlog::formatter> MakeLogFormatter(const std::string& pattern) {
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<Flag<FormatMessage>>('*');
  formatter->add_flag<Flag<FormatRequest>>('?');
  formatter->add_flag<Flag<FormatTrace>>('~');
  formatter->set_pattern(pattern);
  return formatter;
}

bool LogsJson() { return logs_json; }

void InitLog(std::string_view component, std::string_view level, LogFormat format) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>(std::string(component), std::move(sink));
  auto parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") parsed = spdlog::level::info;
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::trace);
  logger->set_formatter(MakeLogFormatter(
      format == LogFormat::kJson
          ? R"({"time":"%Y-%m-%dT%H:%M:%S.%e%z","level":"%l","component":"%n","pid":%P%?,"message":"%*"})"
          : "%Y-%m-%d %H:%M:%S.%e %L %n[%P] %v%~"));
  logs_json = format == LogFormat::kJson;
  spdlog::set_default_logger(std::move(logger));
}

void Die(const char* file, int line, std::string_view message) {
  spdlog::critical("{}:{}: {}", file, line, message);
  spdlog::default_logger()->flush();
  std::abort();
}

}  // namespace paceline
