// Where traces go, from --otlp-traces-endpoint and the environment variables that OpenTelemetry
// defines for every program (OTEL_*). Stateless; main thread.
#ifndef PACELINE_CLI_OTLP_OPTIONS_H_
#define PACELINE_CLI_OTLP_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/http_client.h"

namespace paceline::cli {

struct OtlpOptions {
  HttpUrl url;
  std::vector<std::pair<std::string, std::string>> headers;
  TlsFiles tls;
  int64_t timeout_ms = 10'000;  // of one attempt
  // What the resource is called; empty: as the process says.
  std::string service_name;
  std::vector<std::pair<std::string, std::string>> resource;
  double ratio = 1;            // of the traces that begin here
  bool follows_caller = true;  // one that comes with a traceparent is recorded as its caller does
  int32_t max_queue = 2048;    // spans
  int32_t max_batch = 512;
  int64_t backoff_ms = 1'000;  // before the second attempt; then twice as long each time
  int64_t delay_ms = 5'000;    // before a batch that is not full is sent
};

// The variable's value, or null. As std::getenv.
using GetEnv = std::function<const char*(const char* name)>;

// nullopt: neither `endpoint` (of the option, a whole URL; empty: not given) nor the environment
// names a collector, or OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER=none switches it off.
// InvalidArgument names the option or variable at fault.
absl::StatusOr<std::optional<OtlpOptions>> FindOtlpOptions(const std::string& endpoint,
                                                           const GetEnv& get_env);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_OTLP_OPTIONS_H_
