// TLS for gRPC: credentials that follow a TlsSource. Stateless; any thread.
#ifndef PACELINE_PROTO_SUPPORT_TLS_GRPC_H_
#define PACELINE_PROTO_SUPPORT_TLS_GRPC_H_

#include <memory>

#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "proto/support/tls.h"

namespace paceline {

// Each handshake uses what `source` has by then; connections that are open stay. Where it has
// authorities at first, clients must always show a certificate. Null: no TLS. The credentials and
// `source` must outlive the server.
std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const TlsSource* source);

// For one channel, as `source` is now: connections are made anew with a new channel. Without
// authorities the system's are trusted. Null: no TLS.
std::shared_ptr<grpc::ChannelCredentials> ChannelCredentialsOf(const TlsSource* source);

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_TLS_GRPC_H_
