#include "proto/support/tls.h"

#include <ctime>
#include <vector>

#include "absl/strings/str_cat.h"
#include "openssl/err.h"
#include "openssl/pem.h"
#include "openssl/ssl.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline {
namespace {

template <auto kFree>
struct Free {
  template <typename T>
  void operator()(T* object) const {
    kFree(object);
  }
};
using Bio = std::unique_ptr<BIO, Free<BIO_free>>;
using Certificate = std::unique_ptr<X509, Free<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY_free>>;
using Context = std::unique_ptr<SSL_CTX, Free<SSL_CTX_free>>;

Bio Reader(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// OpenSSL's reason for the last error; its queue is empty afterwards.
std::string Reason() {
  const unsigned long error = ERR_peek_last_error();
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(error);
  return reason == nullptr ? "no reason given" : reason;
}

absl::StatusOr<std::vector<Certificate>> ReadCertificates(const std::string& pem) {
  std::vector<Certificate> certificates;
  const Bio bio = Reader(pem);
  while (X509* certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(certificate);
  }
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  const std::string reason = Reason();
  if (certificates.empty()) return absl::InvalidArgumentError("holds no certificate in PEM");
  if (!at_end)
    return absl::InvalidArgumentError(absl::StrCat("a certificate is damaged: ", reason));
  return certificates;
}

absl::StatusOr<int64_t> CheckDates(const X509* certificate) {
  if (X509_cmp_current_time(X509_get0_notBefore(certificate)) > 0) {
    return absl::InvalidArgumentError("the certificate is not valid yet");
  }
  std::tm end = {};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &end) != 1) {
    return absl::InvalidArgumentError("the certificate has no end that can be read");
  }
  return int64_t{timegm(&end)};
}

// A key under a pass phrase is an error, not a question on the terminal.
int NoPassPhrase(char*, int, int, void*) { return -1; }

absl::Status UseIdentity(SSL_CTX* context, const TlsMaterial& material) {
  ASSIGN_OR_RETURN(const std::vector<Certificate> chain, ReadCertificates(material.certificates));
  const Bio bio = Reader(material.key);
  const Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassPhrase, nullptr));
  ERR_clear_error();
  if (key == nullptr) {
    return absl::InvalidArgumentError("the key is no private key in PEM without a pass phrase");
  }
  if (X509_check_private_key(chain[0].get(), key.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError("the key is not that of the certificate");
  }
  if (SSL_CTX_use_certificate(context, chain[0].get()) != 1 ||
      SSL_CTX_use_PrivateKey(context, key.get()) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("the certificate cannot be used: ", Reason()));
  }
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context, chain[i].get()) != 1) {
      return absl::InvalidArgumentError(absl::StrCat("the chain cannot be used: ", Reason()));
    }
  }
  return absl::OkStatus();
}

absl::Status AskClients(SSL_CTX* context, const std::string& authorities) {
  ASSIGN_OR_RETURN(const std::vector<Certificate> trusted, ReadCertificates(authorities));
  for (const Certificate& authority : trusted) {
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.get());
    SSL_CTX_add_client_CA(context, authority.get());
  }
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  return absl::OkStatus();
}

Context NewContext() {
  Context context(SSL_CTX_new(TLS_server_method()));
  PACELINE_CHECK(context != nullptr, "OpenSSL has no TLS");
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS);
  // Without a name of its own, a session of a client with a certificate cannot be resumed.
  static constexpr unsigned char kName[] = "paceline";
  SSL_CTX_set_session_id_context(context.get(), kName, sizeof(kName) - 1);
  return context;
}

}  // namespace

absl::StatusOr<TlsMaterial> MakeTlsMaterial(std::string certificates,
                                            std::string key,
                                            std::string authorities) {
  TlsMaterial material{.certificates = std::move(certificates),
                       .key = std::move(key),
                       .authorities = std::move(authorities)};
  const Context context = NewContext();
  if (!material.certificates.empty()) {
    RETURN_IF_ERROR(UseIdentity(context.get(), material));
    ASSIGN_OR_RETURN(const std::vector<Certificate> chain, ReadCertificates(material.certificates));
    ASSIGN_OR_RETURN(material.expires_s, CheckDates(chain[0].get()));
  }
  if (!material.authorities.empty()) {
    if (const absl::Status status = AskClients(context.get(), material.authorities); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("authorities: ", status.message()));
    }
  }
  return material;
}

SSL_CTX* NewServerContext(const TlsMaterial& material, bool asks_clients) {
  Context context = NewContext();
  absl::Status status = UseIdentity(context.get(), material);
  if (status.ok() && asks_clients && !material.authorities.empty()) {
    status = AskClients(context.get(), material.authorities);
  }
  PACELINE_CHECK(status.ok(), "TLS material that was checked cannot be used");
  return context.release();
}

}  // namespace paceline
