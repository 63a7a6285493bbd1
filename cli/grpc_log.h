// What gRPC's library has to say, such as why a handshake failed, in this process's log. Stateless.
#ifndef PACELINE_CLI_GRPC_LOG_H_
#define PACELINE_CLI_GRPC_LOG_H_

namespace paceline::cli {

// Its errors become warnings, one a second at most. Main thread, before gRPC is used.
void LogForGrpc();

}  // namespace paceline::cli

#endif  // PACELINE_CLI_GRPC_LOG_H_
