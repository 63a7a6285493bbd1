// TLS of the commands that talk to a server: chat and health. Main thread.
#ifndef PACELINE_CLI_CLIENT_TLS_H_
#define PACELINE_CLI_CLIENT_TLS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "boost/asio/ip/tcp.hpp"
#include "boost/asio/ssl.hpp"
#include "boost/beast/core/tcp_stream.hpp"
#include "cli/options.h"

namespace paceline::cli {

using TlsClientStream = boost::asio::ssl::stream<boost::beast::tcp_stream>;

// Verifies servers by --tls-ca-file, or else by the system's authorities; shows --tls-cert-file.
// InvalidArgument names the option at fault.
absl::StatusOr<std::unique_ptr<boost::asio::ssl::context>> MakeClientContext(
    const TlsOptions& options);

// Asks for, and insists on, a certificate that bears `name`: a host name or an address.
void ExpectServer(const std::string& name, TlsClientStream& stream);

// Why a handshake failed, for people.
std::string ExplainHandshake(const boost::system::error_code& error, TlsClientStream& stream);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_CLIENT_TLS_H_
