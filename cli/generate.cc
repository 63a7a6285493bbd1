// `paceline generate MODEL`: completions without a server. The model's engine and the router's core
// run in this process, joined in memory, so the answers are those of a server, bit for bit.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/local_worker_link.h"
#include "cli/progress.h"
#include "cli/router_core.h"
#include "cli/shutdown.h"
#include "nlohmann/json.hpp"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "router/core/chunk_collector.h"
#include "router/core/request_context.h"
#include "router/openai/errors.h"
#include "router/openai/requests.h"
#include "router/openai/responses.h"

namespace paceline::cli {
namespace {

// Lines being worked on at once: enough to fill any batch.
constexpr size_t kLinesInFlight = 256;
// Router core and engine are one process: neither can be lost alone, however long the machine
// leaves it without a processor or its user stops it. So the longest lease that there is.
constexpr int32_t kLeaseMs = 600'000;

// Gathers one call's events.
class CallWaiter final : public router::CallSink {
 public:
  using TextFn = std::function<void(const std::string&)>;
  explicit CallWaiter(TextFn on_text) : on_text_(std::move(on_text)) {}

  void OnChunk(v1::GenerateChunk chunk) override {
    if (on_text_) on_text_(chunk.text());
    const std::lock_guard lock(mutex_);
    collector_.Add(std::move(chunk));
  }
  void OnDone(const v1::Usage& usage) override {
    const std::lock_guard lock(mutex_);
    outcome_ = collector_.Take(usage);
    done_.notify_all();
  }
  void OnError(const router::ApiError& error) override {
    const std::lock_guard lock(mutex_);
    outcome_ = error;
    done_.notify_all();
  }

  using Outcome = std::variant<v1::GenerateResponse, router::ApiError>;
  Outcome Wait() {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return outcome_.has_value(); });
    return *std::exchange(outcome_, std::nullopt);
  }

 private:
  const TextFn on_text_;
  std::mutex mutex_;  // guards the three below
  std::condition_variable done_;
  router::ChunkCollector collector_;
  std::optional<Outcome> outcome_;
};

// One input line on its way: its calls, or the error it met before it had any.
struct Line {
  router::ResponseShape shape;
  std::string request_id;
  std::vector<std::shared_ptr<CallWaiter>> calls;
  std::optional<router::ApiError> error;
};

class Generator {
 public:
  Generator(const GenerateOptions& options, router::Service& service)
      : options_(options), service_(service) {}

  // -p: prints each completion as it comes.
  absl::Status RunPrompts();
  // -f: one response object per line, in input order. Aborted when some lines were refused.
  absl::Status RunFile();

 private:
  Line StartLine(const std::string& text);
  std::string FinishLine(Line line, bool& refused);
  std::shared_ptr<CallWaiter> StartCall(std::variant<v1::GenerateRequest, v1::ChatRequest> body,
                                        CallWaiter::TextFn on_text);

  const GenerateOptions& options_;
  router::Service& service_;
};

std::shared_ptr<CallWaiter> Generator::StartCall(
    std::variant<v1::GenerateRequest, v1::ChatRequest> body, CallWaiter::TextFn on_text) {
  auto waiter = std::make_shared<CallWaiter>(std::move(on_text));
  router::CallRequest call;
  call.body = std::move(body);
  call.tenant = router::kDefaultTenant;
  service_.Start(std::move(call), waiter);
  return waiter;
}

absl::Status Generator::RunPrompts() {
  for (const std::string& prompt : options_.prompts) {
    v1::SamplingParams sampling;
    sampling.set_max_tokens(options_.max_tokens);
    sampling.set_temperature(options_.temperature);
    if (options_.seed >= 0) sampling.set_seed(options_.seed);
    std::variant<v1::GenerateRequest, v1::ChatRequest> body;
    if (options_.chat) {
      v1::ChatRequest chat;
      *chat.mutable_sampling() = sampling;
      chat.add_messages()->set_role("user");
      chat.mutable_messages(0)->set_content(prompt);
      body = std::move(chat);
    } else {
      v1::GenerateRequest generate;
      *generate.mutable_sampling() = sampling;
      generate.set_text(prompt);
      body = std::move(generate);
    }
    if (!options_.chat) std::fputs(prompt.c_str(), stdout);
    const auto waiter = StartCall(std::move(body), [](const std::string& text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    });
    const CallWaiter::Outcome outcome = waiter->Wait();
    std::fputs("\n", stdout);
    if (const auto* error = std::get_if<router::ApiError>(&outcome)) {
      return absl::Status(error->status, error->message);
    }
  }
  if (std::fflush(stdout) != 0) return absl::DataLossError("standard output: writing failed");
  return absl::OkStatus();
}

Line Generator::StartLine(const std::string& text) {
  Line line;
  // Which of the two bodies it is shows in its members; a broken line is reported by the parser.
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  const bool is_chat = json.is_object() && json.contains("messages");
  auto parsed = is_chat ? router::ParseChatCompletion(text) : router::ParseCompletion(text);
  if (auto* error = std::get_if<router::ApiError>(&parsed)) {
    line.error = std::move(*error);
    return line;
  }
  auto& request = std::get<router::InferenceRequest>(parsed);
  if (request.stream) {
    line.error =
        router::InvalidParam("stream", "must be false: each line is answered by one object");
    return line;
  }
  line.shape = request.shape;
  line.request_id = router::AssignRequestIds(router::NewRequestId(), request);
  for (auto& body : request.calls) line.calls.push_back(StartCall(std::move(body), nullptr));
  return line;
}

std::string Generator::FinishLine(Line line, bool& refused) {
  std::vector<v1::GenerateResponse> answers;
  for (const auto& call : line.calls) {
    CallWaiter::Outcome outcome = call->Wait();
    if (auto* answer = std::get_if<v1::GenerateResponse>(&outcome)) {
      answers.push_back(std::move(*answer));
    } else if (!line.error.has_value()) {
      line.error = std::get<router::ApiError>(std::move(outcome));
    }
  }
  if (line.error.has_value()) {
    refused = true;
    return router::ErrorJson(*line.error);
  }
  return router::ResponseJson(
      line.shape,
      {.request_id = line.request_id, .model = "", .created_unix_seconds = std::time(nullptr)},
      answers);
}

absl::Status Generator::RunFile() {
  std::ifstream file;
  if (options_.input != "-") {
    file.open(options_.input, std::ios::binary);
    if (!file) {
      return absl::NotFoundError(absl::StrCat("-f ", options_.input, ": ", std::strerror(errno)));
    }
  }
  std::istream& in = options_.input == "-" ? std::cin : file;
  std::ofstream out_file;
  const bool to_file = !options_.output.empty() && options_.output != "-";
  if (to_file) {
    out_file.open(options_.output, std::ios::binary | std::ios::trunc);
    if (!out_file) {
      return absl::NotFoundError(absl::StrCat("-o ", options_.output, ": ", std::strerror(errno)));
    }
  }
  std::ostream& out = to_file ? out_file : std::cout;

  ProgressBar bar("generate");
  std::deque<Line> lines;
  int64_t read = 0;
  int64_t written = 0;
  bool refused = false;
  const auto write_first = [&]() -> absl::Status {
    out << FinishLine(std::move(lines.front()), refused) << '\n';
    lines.pop_front();
    // Out of disk shows here, not at the end.
    if (!out.flush()) {
      return absl::DataLossError(absl::StrCat(to_file ? "-o " + options_.output : "standard output",
                                              ": writing failed: ",
                                              std::strerror(errno)));
    }
    ++written;
    bar.Update(written, read, absl::StrCat(written, " lines"));
    return absl::OkStatus();
  };
  for (std::string text; std::getline(in, text);) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) continue;
    ++read;
    lines.push_back(StartLine(text));
    if (lines.size() >= kLinesInFlight) RETURN_IF_ERROR(write_first());
  }
  while (!lines.empty()) RETURN_IF_ERROR(write_first());
  return refused ? absl::AbortedError("some lines were refused") : absl::OkStatus();
}

absl::Status Run(const GenerateOptions& options) {
  RETURN_IF_ERROR(CheckEngineOptions(options.engine));
  if (options.prompts.empty() == options.input.empty()) {
    return absl::InvalidArgumentError("generate: give either -p TEXT or -f FILE");
  }
  if (!options.output.empty() && options.input.empty()) {
    return absl::InvalidArgumentError("-o: only together with -f");
  }
  std::unique_ptr<LoadedModel> model;
  {
    ProgressBar bar(absl::StrCat("loading ", ModelNameFromPath(options.engine.model)));
    ASSIGN_OR_RETURN(
        model,
        LoadedModel::Load(options.engine,
                          {.lease_ms = kLeaseMs, .progress = [&bar](int64_t done, int64_t total) {
                             bar.Update(done, total);
                           }}));
  }
  spdlog::info("{}", model->description());
  RouterOptions router;
  router.workers = {"127.0.0.1:1"};  // a name only: the link is in memory
  router.max_queued_requests = 1 << 16;
  router.max_queued_tokens = int64_t{1} << 32;
  ASSIGN_OR_RETURN(const auto core, StartRouterCore(router, LocalWorkerLinkFactory(*model)));
  for (int i = 0; !core->service().Ready(); ++i) {
    if (i > 30'000) return absl::DeadlineExceededError("the engine did not become ready in 30 s");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  Generator generator(options, core->service());
  return options.input.empty() ? generator.RunPrompts() : generator.RunFile();
}

}  // namespace

int RunGenerate(const GenerateOptions& options, const LogOptions& log) {
  InitLog("generate", log.level, log.format == "json" ? LogFormat::kJson : LogFormat::kText);
  const absl::Status status = Run(options);
  if (absl::IsAborted(status)) return 1;
  return status.ok() ? 0 : Fail(status);
}

}  // namespace paceline::cli
