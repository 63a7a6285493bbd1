#include "cli/client_tls.h"

#include "absl/strings/str_cat.h"
#include "boost/asio/ip/address.hpp"
#include "boost/asio/ssl/host_name_verification.hpp"
#include "cli/tls_files.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {

namespace ssl = boost::asio::ssl;
using boost::system::error_code;

absl::StatusOr<std::unique_ptr<ssl::context>> MakeClientContext(const TlsOptions& options) {
  ASSIGN_OR_RETURN(const TlsMaterial material, ReadTlsFiles(options, "tls"));
  auto context = std::make_unique<ssl::context>(ssl::context::tls_client);
  error_code error;  // what ReadTlsFiles has taken can be used
  if (material.authorities.empty()) {
    context->set_default_verify_paths(error);
  } else {
    context->add_certificate_authority(boost::asio::buffer(material.authorities), error);
  }
  if (!material.certificates.empty()) {
    context->use_certificate_chain(boost::asio::buffer(material.certificates), error);
    context->use_private_key(boost::asio::buffer(material.key), ssl::context::pem, error);
  }
  context->set_verify_mode(ssl::verify_peer);
  SSL_CTX_set_min_proto_version(context->native_handle(), TLS1_2_VERSION);
  return context;
}

void ExpectServer(const std::string& name, TlsClientStream& stream) {
  error_code not_an_address;
  boost::asio::ip::make_address(name, not_an_address);
  if (not_an_address) SSL_set_tlsext_host_name(stream.native_handle(), name.c_str());
  stream.set_verify_callback(ssl::host_name_verification(name));
}

std::string ExplainHandshake(const error_code& error, TlsClientStream& stream) {
  std::string text = absl::StrCat("TLS handshake failed: ", error.message());
  const int64_t verified = SSL_get_verify_result(stream.native_handle());
  if (error.category() != boost::asio::error::get_ssl_category()) return text;
  switch (ERR_GET_REASON(static_cast<unsigned long>(error.value()))) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      // The check of the name leaves no reason of its own.
      absl::StrAppend(&text,
                      " (",
                      verified == X509_V_OK || verified == X509_V_ERR_UNSPECIFIED
                          ? "it bears another name"
                          : X509_verify_cert_error_string(verified),
                      ")");
      break;
    case SSL_R_WRONG_VERSION_NUMBER:
      text += " (the port speaks no TLS: try http:// or grpc://)";
      break;
    default:
      break;
  }
  return text;
}

}  // namespace paceline::cli
