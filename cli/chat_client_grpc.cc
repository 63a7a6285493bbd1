#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/chat_client.h"
#include "cli/tls_files.h"
#include "grpcpp/grpcpp.h"
#include "proto/paceline/v1/inference.grpc.pb.h"
#include "proto/support/status_grpc.h"
#include "proto/support/status_macros.h"
#include "proto/support/tls_grpc.h"

namespace paceline::cli {
namespace {

class GrpcChatClient final : public ChatClient {
 public:
  explicit GrpcChatClient(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::Inference::NewStub(channel)) {}

  absl::StatusOr<std::string> Ask(const std::vector<ChatTurn>& turns,
                                  const ChatParams& params,
                                  const std::function<void(const std::string&)>& on_text,
                                  const std::atomic<bool>& stop) override {
    v1::ChatRequest request;
    request.set_model(params.model);
    for (const ChatTurn& turn : turns) {
      v1::ChatMessage& message = *request.add_messages();
      message.set_role(turn.role);
      message.set_content(turn.content);
    }
    if (params.max_tokens > 0) request.mutable_sampling()->set_max_tokens(params.max_tokens);
    request.mutable_sampling()->set_temperature(params.temperature);
    request.mutable_sampling()->set_min_p(params.min_p);

    grpc::ClientContext context;
    if (!params.api_key.empty()) {
      context.AddMetadata("authorization", "Bearer " + params.api_key);
    }
    // Read() blocks, so somebody else has to see Ctrl-C.
    std::atomic<bool> done{false};
    std::thread watch([&] {
      while (!done.load() && !stop.load())
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      if (stop.load()) context.TryCancel();
    });
    std::string answer;
    v1::ChatChunk chunk;
    const auto stream = stub_->ChatStream(&context, request);
    while (stream->Read(&chunk)) {
      answer += chunk.content_delta();
      if (!chunk.content_delta().empty()) on_text(chunk.content_delta());
    }
    const grpc::Status status = stream->Finish();
    done.store(true);
    watch.join();
    if (!status.ok() && !stop.load()) return FromGrpcStatus(status);
    return answer;
  }

 private:
  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatClient>> MakeGrpcChatClient(const ChatServer& server) {
  grpc::ChannelArguments arguments;
  if (!server.tls_server_name.empty()) arguments.SetSslTargetNameOverride(server.tls_server_name);
  ASSIGN_OR_RETURN(TlsMaterial material, ReadTlsFiles(server.tls, "tls"));
  const TlsSource tls(std::move(material));
  return std::make_unique<GrpcChatClient>(
      grpc::CreateCustomChannel(absl::StrCat(server.host, ":", server.port),
                                ChannelCredentialsOf(server.has_tls ? &tls : nullptr),
                                arguments));
}

}  // namespace paceline::cli
