// One question to a running server, streamed: over OpenAI-compatible HTTP (http://host:port) or
// gRPC (grpc://host:port), plain or under TLS (https://, grpcs://). Used by one thread; `stop` may
// be set from a signal handler.
#ifndef PACELINE_CLI_CHAT_CLIENT_H_
#define PACELINE_CLI_CHAT_CLIENT_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/options.h"

namespace paceline::cli {

struct ChatTurn {
  std::string role;
  std::string content;
};

struct ChatParams {
  std::string model;    // empty: the only one served
  std::string api_key;  // empty: none
  int max_tokens = 0;   // 0: the rest of the context
  double temperature = 0;
  double min_p = 0;
};

class ChatClient {
 public:
  virtual ~ChatClient() = default;
  // Sends the conversation, gives each piece of the answer to `on_text` as it comes, and returns
  // the whole answer. When `stop` becomes true the answer is cut there, which is no error.
  // Unavailable: no server there. Other codes: what the server said.
  virtual absl::StatusOr<std::string> Ask(const std::vector<ChatTurn>& turns,
                                          const ChatParams& params,
                                          const std::function<void(const std::string&)>& on_text,
                                          const std::atomic<bool>& stop) = 0;
};

// InvalidArgument: the URL is neither http[s]://host[:port] nor grpc[s]://host[:port], or names no
// TLS though `tls` is given, or an option is at fault. `tls_server_name`: empty for the host.
absl::StatusOr<std::unique_ptr<ChatClient>> MakeChatClient(const std::string& url,
                                                           const TlsOptions& tls = {},
                                                           const std::string& tls_server_name = "");

struct ChatServer {
  std::string host;
  std::string port;
  bool has_tls = false;
  TlsOptions tls;
  std::string tls_server_name;
};
absl::StatusOr<std::unique_ptr<ChatClient>> MakeHttpChatClient(ChatServer server);
absl::StatusOr<std::unique_ptr<ChatClient>> MakeGrpcChatClient(const ChatServer& server);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_CHAT_CLIENT_H_
