// Certificates for tests, made on the spot: authorities and what they sign. Plain values.
#ifndef PACELINE_TESTS_FAKES_CERTIFICATES_H_
#define PACELINE_TESTS_FAKES_CERTIFICATES_H_

#include <cstdint>
#include <memory>
#include <string>

typedef struct x509_st X509;
typedef struct evp_pkey_st EVP_PKEY;

namespace paceline {

struct TestIdentity {
  std::string certificate;  // PEM
  std::string key;          // PEM
};

class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name);

  // For localhost, 127.0.0.1 and `name`; valid from an hour ago, for `seconds` from now.
  TestIdentity Sign(const std::string& name, int64_t seconds = 3600) const;
  const std::string& certificate() const { return certificate_; }  // PEM

 private:
  std::shared_ptr<EVP_PKEY> key_;
  std::shared_ptr<X509> x509_;
  std::string certificate_;
};

}  // namespace paceline

#endif  // PACELINE_TESTS_FAKES_CERTIFICATES_H_
