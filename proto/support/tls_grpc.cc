#include "proto/support/tls_grpc.h"

#include <string>
#include <utility>

#include "grpc/grpc.h"
#include "grpc/grpc_security.h"

namespace paceline {
namespace {

// gRPC's C++ credentials take a certificate once and its provider of files takes a key that is not
// the certificate's; its C library asks before each handshake, which is what this is about.
class FollowingCredentials final : public grpc::ServerCredentials {
 public:
  explicit FollowingCredentials(const TlsSource* source) : source_(source) {
    const bool asks_clients = !source->Get()->authorities.empty();
    credentials_ = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            asks_clients ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                         : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            &FollowingCredentials::Fetch,
            this));
  }
  ~FollowingCredentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  // gRPC holds a lock of the credentials meanwhile.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    auto& credentials = *static_cast<FollowingCredentials*>(self);
    std::shared_ptr<const TlsMaterial> material = credentials.source_->Get();
    if (material == credentials.shown_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {material->key.c_str(), material->certificates.c_str()};
    // gRPC insists on roots, also where it asks no client for a certificate and so has no use for
    // them.
    const std::string& roots =
        material->authorities.empty() ? material->certificates : material->authorities;
    *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
    credentials.shown_ = std::move(material);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  const TlsSource* const source_;
  grpc_server_credentials* credentials_;
  std::shared_ptr<const TlsMaterial> shown_;  // what the last handshakes used
};

}  // namespace

std::shared_ptr<grpc::ServerCredentials> ServerCredentialsOf(const TlsSource* source) {
  if (source == nullptr) return grpc::InsecureServerCredentials();
  return std::make_shared<FollowingCredentials>(source);
}

std::shared_ptr<grpc::ChannelCredentials> ChannelCredentialsOf(const TlsSource* source) {
  if (source == nullptr) return grpc::InsecureChannelCredentials();
  const std::shared_ptr<const TlsMaterial> material = source->Get();
  return grpc::SslCredentials({.pem_root_certs = material->authorities,
                               .pem_private_key = material->key,
                               .pem_cert_chain = material->certificates});
}

}  // namespace paceline
