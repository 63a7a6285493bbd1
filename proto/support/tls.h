// What a process shows and trusts under TLS: certificate, key, authorities. Checked when it is
// made; replaced as a whole when the files behind it change. TlsSource is owned by the process;
// any thread.
#ifndef PACELINE_PROTO_SUPPORT_TLS_H_
#define PACELINE_PROTO_SUPPORT_TLS_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

typedef struct ssl_ctx_st SSL_CTX;

namespace paceline {

struct TlsMaterial {
  std::string certificates;  // PEM, the own one first, then those above it; empty: none
  std::string key;           // PEM
  std::string authorities;   // PEM, who may have signed the other side; empty: not asked
  int64_t expires_s = 0;     // Unix time of the own certificate's end; 0: none
};

// InvalidArgument, without a byte of the key, says what is wrong: not PEM, a key that is not the
// certificate's, one that is too weak for this system's OpenSSL, a certificate that begins later.
// One that has expired is taken: whoever connects refuses it, and says so.
absl::StatusOr<TlsMaterial> MakeTlsMaterial(std::string certificates,
                                            std::string key,
                                            std::string authorities);

// A context for servers that show `material`'s certificate, TLS 1.2 and up. With `asks_clients` and
// authorities it demands a certificate that one of them has signed. The caller frees it.
// REQUIRES: made by MakeTlsMaterial, with a certificate.
SSL_CTX* NewServerContext(const TlsMaterial& material, bool asks_clients);

// Who takes the newest material from here keeps it for one connection.
class TlsSource {
 public:
  explicit TlsSource(TlsMaterial material)
      : material_(std::make_shared<const TlsMaterial>(std::move(material))) {}

  std::shared_ptr<const TlsMaterial> Get() const {
    const std::lock_guard lock(mutex_);
    return material_;
  }
  void Set(TlsMaterial material) {
    auto made = std::make_shared<const TlsMaterial>(std::move(material));
    const std::lock_guard lock(mutex_);
    material_ = std::move(made);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const TlsMaterial> material_;  // guarded by mutex_
};

}  // namespace paceline

#endif  // PACELINE_PROTO_SUPPORT_TLS_H_
