// `paceline chat [URL]`: talk to a server in the terminal.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "cli/chat_client.h"
#include "cli/commands.h"

namespace paceline::cli {
namespace {

std::atomic<bool> g_stop{false};

void OnInterrupt(int) { g_stop.store(true); }

constexpr char kHelp[] = "/reset forgets the conversation, Ctrl-C stops an answer, Ctrl-D leaves\n";

absl::StatusOr<std::string> AskAndPrint(ChatClient& client,
                                        const std::vector<ChatTurn>& turns,
                                        const ChatParams& params) {
  g_stop.store(false);
  auto answer = client.Ask(
      turns,
      params,
      [](const std::string& text) {
        std::fwrite(text.data(), 1, text.size(), stdout);
        std::fflush(stdout);
      },
      g_stop);
  std::fputs("\n", stdout);
  std::fflush(stdout);
  return answer;
}

std::vector<ChatTurn> Opening(const ChatOptions& options) {
  std::vector<ChatTurn> turns;
  if (!options.system.empty()) turns.push_back({"system", options.system});
  return turns;
}

// The key of the first entry, "KEY" or "TENANT:KEY", of a file as --api-key-file has it.
absl::StatusOr<std::string> FirstKey(const std::string& path) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line.front() == '#') continue;
    line.resize(std::min(line.find(','), line.size()));
    return line.substr(line.find(':') + 1);  // npos + 1: all of it
  }
  return absl::InvalidArgumentError(absl::StrCat("--api-key-file: no key in ", path));
}

// Reads questions until the end of the input.
int Converse(ChatClient& client, const ChatOptions& options, const ChatParams& params) {
  const bool on_terminal = isatty(STDIN_FILENO) == 1;
  if (on_terminal) std::fputs(kHelp, stderr);
  std::vector<ChatTurn> turns = Opening(options);
  int status = 0;
  for (std::string line;;) {
    if (on_terminal) {
      std::fputs("> ", stderr);
      std::fflush(stderr);
    }
    if (!std::getline(std::cin, line)) {
      if (on_terminal && g_stop.exchange(false) && !std::cin.eof()) {  // Ctrl-C at the prompt
        std::cin.clear();
        std::fputs("\n", stderr);
        continue;
      }
      break;
    }
    if (line.empty()) continue;
    if (line == "/reset") {
      turns = Opening(options);
      std::fputs("(forgotten)\n", stderr);
      continue;
    }
    if (line == "/help") {
      std::fputs(kHelp, stderr);
      continue;
    }
    turns.push_back({"user", line});
    absl::StatusOr<std::string> answer = AskAndPrint(client, turns, params);
    if (!answer.ok()) {
      status = Fail(answer.status());
      turns.pop_back();
      if (!on_terminal) return status;
      continue;
    }
    turns.push_back({"assistant", *std::move(answer)});
  }
  if (on_terminal) std::fputs("\n", stderr);
  return on_terminal ? 0 : status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChatClient>> MakeChatClient(const std::string& url,
                                                           const TlsOptions& tls,
                                                           const std::string& tls_server_name) {
  const size_t scheme_end = url.find("://");
  const std::string scheme = url.substr(0, scheme_end);
  const bool is_grpc = scheme == "grpc" || scheme == "grpcs";
  const bool has_tls = scheme == "https" || scheme == "grpcs";
  if (scheme_end == std::string::npos || (!is_grpc && !has_tls && scheme != "http")) {
    return absl::InvalidArgumentError(
        "URL: must start with http://, https://, grpc:// or grpcs://");
  }
  if (!has_tls && !(tls.ca_file.empty() && tls.cert_file.empty() && tls_server_name.empty())) {
    return absl::InvalidArgumentError("--tls-…: the URL must start with https:// or grpcs://");
  }
  std::string rest = url.substr(scheme_end + 3);
  while (!rest.empty() && rest.back() == '/') rest.pop_back();
  if (!is_grpc && absl::EndsWith(rest, "/v1")) rest.resize(rest.size() - 3);
  const size_t colon = rest.rfind(':');
  const std::string host = rest.substr(0, colon);
  const std::string port =
      colon == std::string::npos ? (is_grpc ? "50051" : "8000") : rest.substr(colon + 1);
  int number = 0;
  if (host.empty() || host.find('/') != std::string::npos || !absl::SimpleAtoi(port, &number) ||
      number < 1 || number > 65535) {
    return absl::InvalidArgumentError("URL: must be http[s]://host:port or grpc[s]://host:port");
  }
  ChatServer server{.host = host,
                    .port = port,
                    .has_tls = has_tls,
                    .tls = tls,
                    .tls_server_name = tls_server_name};
  return is_grpc ? MakeGrpcChatClient(server) : MakeHttpChatClient(std::move(server));
}

int RunChat(const ChatOptions& options) {
  absl::StatusOr<std::unique_ptr<ChatClient>> client =
      MakeChatClient(options.url, options.tls, options.tls_server_name);
  if (!client.ok()) return Fail(client.status());
  // Without SA_RESTART, so that Ctrl-C also ends a read at the prompt.
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  sigaction(SIGINT, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  std::string api_key = options.api_key;
  if (!options.api_key_file.empty()) {
    absl::StatusOr<std::string> key = FirstKey(options.api_key_file);
    if (!key.ok()) return Fail(key.status());
    api_key = *std::move(key);
  }
  const ChatParams params{.model = options.model,
                          .api_key = std::move(api_key),
                          .max_tokens = options.max_tokens,
                          .temperature = options.temperature,
                          .min_p = options.min_p};
  if (options.message.empty()) return Converse(**client, options, params);
  std::vector<ChatTurn> turns = Opening(options);
  turns.push_back({"user", options.message});
  const absl::StatusOr<std::string> answer = AskAndPrint(**client, turns, params);
  return answer.ok() ? 0 : Fail(answer.status());
}

}  // namespace paceline::cli
