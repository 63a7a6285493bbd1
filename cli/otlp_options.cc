#include "cli/otlp_options.h"

#include <algorithm>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

absl::Status Wrong(const std::string& name, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": ", what));
}

struct Variable {
  std::string name;   // of the variable that is set, for errors
  std::string value;  // empty: not set
};

class Environment {
 public:
  explicit Environment(const GetEnv& get_env) : get_env_(get_env) {}

  Variable Get(const std::string& name) const {
    const char* value = get_env_(name.c_str());
    return {name, value == nullptr ? "" : std::string(absl::StripAsciiWhitespace(value))};
  }
  // OTEL_EXPORTER_OTLP_TRACES_<name>, or the one for all signals.
  Variable Otlp(const char* name) const {
    Variable own = Get(absl::StrCat("OTEL_EXPORTER_OTLP_TRACES_", name));
    return own.value.empty() ? Get(absl::StrCat("OTEL_EXPORTER_OTLP_", name)) : own;
  }
  // A number within [low, high] goes to `out` if there is one.
  template <typename T>
  static absl::Status Number(const Variable& variable, T low, T high, T& out) {
    if (variable.value.empty()) return absl::OkStatus();
    T value{};
    if (!absl::SimpleAtoi(variable.value, &value) || value < low || value > high) {
      return Wrong(variable.name, absl::StrCat("not a number within ", low, " to ", high));
    }
    out = value;
    return absl::OkStatus();
  }

 private:
  const GetEnv& get_env_;
};

// "%20" is a space; nullopt when a % is followed by something else.
std::optional<std::string> PercentDecoded(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out.push_back(text[i]);
      continue;
    }
    int32_t byte = 0;
    if (i + 2 >= text.size() || !absl::SimpleHexAtoi(text.substr(i + 1, 2), &byte)) {
      return std::nullopt;
    }
    out.push_back(static_cast<char>(byte));
    i += 2;
  }
  return out;
}

// "key=value,key=value", values percent-encoded.
absl::StatusOr<std::vector<std::pair<std::string, std::string>>> Pairs(const Variable& variable) {
  std::vector<std::pair<std::string, std::string>> pairs;
  if (variable.value.empty()) return pairs;
  for (absl::string_view entry : absl::StrSplit(variable.value, ',')) {
    const size_t equals = entry.find('=');
    const absl::string_view key = absl::StripAsciiWhitespace(entry.substr(0, equals));
    if (equals == absl::string_view::npos || key.empty()) {
      return Wrong(variable.name, "not of the form key=value,key=value");
    }
    auto value = PercentDecoded(absl::StripAsciiWhitespace(entry.substr(equals + 1)));
    const bool is_line = value && value->find_first_of("\r\n") == std::string::npos;
    if (!is_line) return Wrong(variable.name, "a value is not percent-encoded text");
    pairs.emplace_back(key, *std::move(value));
  }
  return pairs;
}

absl::Status ReadSampler(const Environment& environment, OtlpOptions& options) {
  const Variable sampler = environment.Get("OTEL_TRACES_SAMPLER");
  if (sampler.value.empty()) return absl::OkStatus();
  absl::string_view name = sampler.value;
  options.follows_caller = absl::ConsumePrefix(&name, "parentbased_");
  if (name == "always_on") return absl::OkStatus();
  if (name == "always_off") {
    options.ratio = 0;
    return absl::OkStatus();
  }
  if (name != "traceidratio") {
    return Wrong(sampler.name, "not one of [parentbased_]always_on, always_off, traceidratio");
  }
  const Variable ratio = environment.Get("OTEL_TRACES_SAMPLER_ARG");
  if (ratio.value.empty()) return absl::OkStatus();
  const bool is_number = absl::SimpleAtod(ratio.value, &options.ratio);
  if (!is_number || !(options.ratio >= 0 && options.ratio <= 1)) {
    return Wrong(ratio.name, "not a number within 0 to 1");
  }
  return absl::OkStatus();
}

absl::Status ReadResource(const Environment& environment, OtlpOptions& options) {
  ASSIGN_OR_RETURN(options.resource, Pairs(environment.Get("OTEL_RESOURCE_ATTRIBUTES")));
  for (const auto& [key, value] : options.resource) {
    if (key == "service.name") options.service_name = value;
  }
  const Variable name = environment.Get("OTEL_SERVICE_NAME");
  if (!name.value.empty()) options.service_name = name.value;
  std::erase_if(options.resource, [](const auto& pair) { return pair.first == "service.name"; });
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<OtlpOptions>> FindOtlpOptions(const std::string& endpoint,
                                                           const GetEnv& get_env) {
  const Environment environment(get_env);
  if (absl::EqualsIgnoreCase(environment.Get("OTEL_SDK_DISABLED").value, "true") ||
      environment.Get("OTEL_TRACES_EXPORTER").value == "none") {
    return std::nullopt;
  }
  // The option and the variable for traces name the whole URL, the variable for all signals what
  // goes before /v1/traces.
  Variable url{"--otlp-traces-endpoint", endpoint};
  if (url.value.empty()) url = environment.Get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
  if (url.value.empty()) {
    url = environment.Get("OTEL_EXPORTER_OTLP_ENDPOINT");
    if (url.value.empty()) return std::nullopt;
    url.value = absl::StrCat(absl::StripSuffix(url.value, "/"), "/v1/traces");
  }
  OtlpOptions options;
  absl::StatusOr<HttpUrl> parsed = ParseHttpUrl(url.value);
  if (!parsed.ok()) return Wrong(url.name, std::string(parsed.status().message()));
  options.url = *std::move(parsed);

  const Variable protocol = environment.Otlp("PROTOCOL");
  if (!protocol.value.empty() && protocol.value != "http/protobuf") {
    return Wrong(protocol.name, "only http/protobuf is supported");
  }
  const Variable compression = environment.Otlp("COMPRESSION");
  if (!compression.value.empty() && compression.value != "none") {
    return Wrong(compression.name, "only none is supported");
  }
  ASSIGN_OR_RETURN(options.headers, Pairs(environment.Otlp("HEADERS")));
  options.tls = {.ca = environment.Otlp("CERTIFICATE").value,
                 .certificate = environment.Otlp("CLIENT_CERTIFICATE").value,
                 .key = environment.Otlp("CLIENT_KEY").value};
  if (options.tls.certificate.empty() != options.tls.key.empty()) {
    return Wrong("OTEL_EXPORTER_OTLP_CLIENT_KEY", "needs the CLIENT_CERTIFICATE, and it the key");
  }
  RETURN_IF_ERROR(
      Environment::Number<int64_t>(environment.Otlp("TIMEOUT"), 1, 600'000, options.timeout_ms));
  RETURN_IF_ERROR(Environment::Number<int64_t>(
      environment.Get("OTEL_BSP_SCHEDULE_DELAY"), 1, 600'000, options.delay_ms));
  RETURN_IF_ERROR(Environment::Number<int32_t>(
      environment.Get("OTEL_BSP_MAX_QUEUE_SIZE"), 1, 1 << 20, options.max_queue));
  RETURN_IF_ERROR(Environment::Number<int32_t>(
      environment.Get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE"), 1, 1 << 16, options.max_batch));
  options.max_batch = std::min(options.max_batch, options.max_queue);
  RETURN_IF_ERROR(ReadSampler(environment, options));
  RETURN_IF_ERROR(ReadResource(environment, options));
  return options;
}

}  // namespace paceline::cli
