#include "cli/otlp_exporter.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iterator>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/version.h"
#include "proto/otlp/trace.pb.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "proto/support/trace.h"

namespace paceline::cli {
namespace {

constexpr int kMaxAttempts = 5;
constexpr int64_t kMaxBackoffMs = 30'000;
constexpr std::chrono::seconds kFlushTime(5);

int64_t UnixMinusSteadyNs() {
  const int64_t unix_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count();
  return unix_ns - SteadyClock::Get().NowNs();
}

std::string Bytes(std::string_view hex) {
  return absl::HexStringToBytes(absl::string_view(hex.data(), hex.size()));
}

void AddText(const std::string& key, const std::string& value, otlp::Resource& resource) {
  otlp::KeyValue& attribute = *resource.add_attributes();
  attribute.set_key(key);
  attribute.mutable_value()->set_string_value(value);
}

bool IsRetryable(unsigned status) {
  return status == 429 || status == 502 || status == 503 || status == 504;
}

}  // namespace

OtlpExporter::OtlpExporter(OtlpOptions options, Process process)
    : options_(std::move(options)),
      process_(std::move(process)),
      client_(options_.url, options_.tls),
      unix_minus_steady_ns_(UnixMinusSteadyNs()),
      thread_([this] { Loop(); }) {}

OtlpExporter::~OtlpExporter() {
  {
    std::unique_lock lock(mutex_);
    stop_ = true;
    wake_.notify_all();
    wake_.wait_for(lock, kFlushTime, [this] { return done_; });
  }
  client_.Stop();
  thread_.join();
}

bool OtlpExporter::Samples(std::string_view trace_id, std::string_view traceparent) const {
  if (options_.follows_caller && !traceparent.empty()) return IsSampled(traceparent);
  if (options_.ratio >= 1) return true;
  // By the id, so that every process that looks at a trace decides the same.
  uint64_t low = 0;
  const std::string_view digits = trace_id.substr(16);
  if (!absl::SimpleHexAtoi(absl::string_view(digits.data(), digits.size()), &low)) return false;
  return static_cast<double>(low >> 1) < options_.ratio * 9223372036854775808.0;
}

void OtlpExporter::Add(Span span) {
  bool is_batch = false;
  {
    const std::lock_guard lock(mutex_);
    if (static_cast<int32_t>(queue_.size()) >= options_.max_queue) {
      ++dropped_;
      return;
    }
    queue_.push_back(std::move(span));
    is_batch = static_cast<int32_t>(queue_.size()) == options_.max_batch;
  }
  if (is_batch) wake_.notify_all();
}

std::string OtlpExporter::MetricsText() const {
  const std::string name = absl::StrCat(process_.metric_prefix, "_trace_spans_total");
  return absl::StrCat("# HELP ",
                      name,
                      " Spans by what became of them\n# TYPE ",
                      name,
                      " counter\n",
                      name,
                      "{outcome=\"exported\"} ",
                      exported_.load(),
                      "\n",
                      name,
                      "{outcome=\"dropped\"} ",
                      dropped_.load(),
                      "\n",
                      name,
                      "{outcome=\"failed\"} ",
                      failed_.load(),
                      "\n");
}

void OtlpExporter::Loop() {
  for (;;) {
    const std::vector<Span> spans = Take();
    if (spans.empty()) break;
    Export(spans);
  }
  const std::lock_guard lock(mutex_);
  done_ = true;
  wake_.notify_all();
}

std::vector<Span> OtlpExporter::Take() {
  std::unique_lock lock(mutex_);
  do {
    wake_.wait_for(lock, std::chrono::milliseconds(options_.delay_ms), [this] {
      return stop_ || static_cast<int32_t>(queue_.size()) >= options_.max_batch;
    });
  } while (queue_.empty() && !stop_);
  const auto count = std::min<ptrdiff_t>(options_.max_batch, std::ssize(queue_));
  std::vector<Span> spans(std::make_move_iterator(queue_.begin()),
                          std::make_move_iterator(queue_.begin() + count));
  queue_.erase(queue_.begin(), queue_.begin() + count);
  return spans;
}

void OtlpExporter::Export(const std::vector<Span>& spans) {
  const std::string body = Encode(spans);
  const auto count = static_cast<int64_t>(spans.size());
  std::minstd_rand random(std::random_device{}());
  int64_t backoff_ms = options_.backoff_ms;
  absl::Status status;
  for (int attempt = 1;; ++attempt) {
    int64_t rejected = 0;
    int64_t retry_after_ms = 0;
    status = Post(body, rejected, retry_after_ms);
    if (status.ok()) {
      failed_ += std::clamp<int64_t>(rejected, 0, count);
      exported_ += count - std::clamp<int64_t>(rejected, 0, count);
      return Report(status);
    }
    Report(status);
    if (!absl::IsUnavailable(status) || attempt == kMaxAttempts) break;
    // Up to as much again, so that processes do not come all at once.
    const auto chance = static_cast<int64_t>(random() % static_cast<uint64_t>(backoff_ms));
    WaitToRetry(std::max(retry_after_ms, backoff_ms + chance));
    backoff_ms = std::min(kMaxBackoffMs, backoff_ms * 2);
  }
  failed_ += count;
}

std::string OtlpExporter::Encode(const std::vector<Span>& spans) const {
  otlp::ExportTraceServiceRequest request;
  otlp::ResourceSpans& group = *request.add_resource_spans();
  otlp::Resource& resource = *group.mutable_resource();
  AddText("service.name",
          options_.service_name.empty() ? process_.service_name : options_.service_name,
          resource);
  AddText("service.version", kVersion, resource);
  AddText("service.instance.id", process_.instance_id, resource);
  for (const auto& [key, value] : options_.resource) AddText(key, value, resource);
  otlp::ScopeSpans& scope = *group.add_scope_spans();
  scope.mutable_scope()->set_name("paceline");
  scope.mutable_scope()->set_version(kVersion);
  for (const Span& span : spans) {
    otlp::Span& out = *scope.add_spans();
    out.set_trace_id(Bytes(span.trace_id));
    out.set_span_id(Bytes(span.id));
    out.set_parent_span_id(Bytes(span.parent_id));
    out.set_name(span.name);
    out.set_kind(span.is_request ? otlp::Span::SPAN_KIND_SERVER : otlp::Span::SPAN_KIND_INTERNAL);
    out.set_start_time_unix_nano(static_cast<uint64_t>(span.start_ns + unix_minus_steady_ns_));
    out.set_end_time_unix_nano(static_cast<uint64_t>(span.end_ns + unix_minus_steady_ns_));
    if (!span.error.empty()) {
      out.mutable_status()->set_code(otlp::Status::STATUS_CODE_ERROR);
      out.mutable_status()->set_message(span.error);
    }
    for (const SpanAttribute& attribute : span.attributes) {
      otlp::KeyValue& pair = *out.add_attributes();
      pair.set_key(attribute.key);
      if (const auto* text = std::get_if<std::string>(&attribute.value)) {
        pair.mutable_value()->set_string_value(*text);
      } else {
        pair.mutable_value()->set_int_value(std::get<int64_t>(attribute.value));
      }
    }
  }
  return request.SerializeAsString();
}

absl::Status OtlpExporter::Post(const std::string& body,
                                int64_t& rejected,
                                int64_t& retry_after_ms) {
  HttpClient::Request request{.method = "POST",
                              .target = options_.url.target,
                              .headers = {{"Content-Type", "application/x-protobuf"},
                                          {"User-Agent", absl::StrCat("paceline/", kVersion)}},
                              .body = body,
                              .timeout_ms = options_.timeout_ms};
  request.headers.insert(request.headers.end(), options_.headers.begin(), options_.headers.end());
  const absl::StatusOr<HttpAnswer> answer = client_.Send(request);
  if (absl::IsDeadlineExceeded(answer.status())) {
    return absl::UnavailableError(std::string(answer.status().message()));
  }
  if (!answer.ok()) return answer.status();
  retry_after_ms = std::min(kMaxBackoffMs, answer->retry_after_s * 1000);
  if (answer->status / 100 == 2) {
    otlp::ExportTraceServiceResponse response;
    if (response.ParseFromString(answer->body)) {
      rejected = response.partial_success().rejected_spans();
    }
    return absl::OkStatus();
  }
  const std::string text = absl::StrCat("the collector answers ", answer->status);
  return IsRetryable(answer->status) ? absl::UnavailableError(text) : absl::InternalError(text);
}

// When the process stops, the attempts that are left follow at once.
void OtlpExporter::WaitToRetry(int64_t ms) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, std::chrono::milliseconds(ms), [this] { return stop_; });
}

// One line when it begins to fail and one when it works again.
void OtlpExporter::Report(const absl::Status& status) {
  if (!status.ok() && !was_failing_) {
    spdlog::warn("traces cannot be exported: {}", std::string(status.message()));
  }
  if (status.ok() && was_failing_) spdlog::info("traces are exported again");
  was_failing_ = !status.ok();
}

absl::StatusOr<std::unique_ptr<OtlpExporter>> StartOtlpExporter(const std::string& endpoint,
                                                                OtlpExporter::Process process) {
  auto options = FindOtlpOptions(endpoint, [](const char* name) { return std::getenv(name); });
  if (!options.ok()) return options.status();
  if (!options->has_value()) return nullptr;
  spdlog::info("traces go to {}", (*options)->url.Authority());
  return std::make_unique<OtlpExporter>(**std::move(options), std::move(process));
}

}  // namespace paceline::cli
