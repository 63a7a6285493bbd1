// The HTTP server under TLS, with OpenSSL's own client.
#include "proto/support/tls.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "openssl/pem.h"
#include "openssl/ssl.h"
#include "router/http/api_handler.h"
#include "router/http/http_server.h"
#include "tests/fakes/certificates.h"
#include "tests/fakes/fake_service.h"
#include "tests/router/http/raw_client.h"

namespace paceline::router {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// One connection that takes any certificate and shows `own`, if that is one.
class TlsClient {
 public:
  explicit TlsClient(uint16_t port, const TestIdentity& own = {})
      : context_(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free),
        fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    if (!own.certificate.empty()) Show(own);
    sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    EXPECT_EQ(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    timeval timeout{.tv_sec = 10};
    setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    ssl_.reset(SSL_new(context_.get()), &SSL_free);
    SSL_set_fd(ssl_.get(), fd_);
    is_connected_ = SSL_connect(ssl_.get()) == 1;
  }
  ~TlsClient() {
    ssl_.reset();
    close(fd_);
  }

  bool is_connected() const { return is_connected_; }
  void Send(const std::string& bytes) {
    SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()));
  }
  // Until `text` came, or the end.
  std::string ReceiveUntil(const std::string& text) {
    std::string received;
    char buffer[4096];
    while (received.find(text) == std::string::npos) {
      const int count = SSL_read(ssl_.get(), buffer, sizeof(buffer));
      if (count <= 0) break;
      received.append(buffer, static_cast<size_t>(count));
    }
    return received;
  }
  // To the end, which must be a proper one.
  bool EndsInOrder() {
    ReceiveUntil("no such text");
    return (SSL_get_shutdown(ssl_.get()) & SSL_RECEIVED_SHUTDOWN) != 0;
  }
  void SayGoodbye() { SSL_shutdown(ssl_.get()); }
  std::string certificate() const {
    X509* x509 = SSL_get0_peer_certificate(ssl_.get());
    char name[256] = "";
    if (x509 != nullptr) {
      X509_NAME_get_text_by_NID(X509_get_subject_name(x509), NID_commonName, name, sizeof(name));
    }
    return name;
  }

 private:
  void Show(const TestIdentity& own) {
    BIO* certificate = BIO_new_mem_buf(own.certificate.data(), -1);
    BIO* key = BIO_new_mem_buf(own.key.data(), -1);
    X509* x509 = PEM_read_bio_X509(certificate, nullptr, nullptr, nullptr);
    EVP_PKEY* pkey = PEM_read_bio_PrivateKey(key, nullptr, nullptr, nullptr);
    EXPECT_EQ(SSL_CTX_use_certificate(context_.get(), x509), 1);
    EXPECT_EQ(SSL_CTX_use_PrivateKey(context_.get(), pkey), 1);
    X509_free(x509);
    EVP_PKEY_free(pkey);
    BIO_free(certificate);
    BIO_free(key);
  }

  std::shared_ptr<SSL_CTX> context_;
  std::shared_ptr<SSL> ssl_;
  const int fd_;
  bool is_connected_ = false;
};

class HttpTlsTest : public testing::Test {
 protected:
  void Serve(HttpServer::Options options = {}) {
    options.tls = &source_;
    server_ = nullptr;  // uses its handler to the end
    handler_ =
        std::make_unique<ApiHandler>(ApiHandler::Options{.service = &service_, .version = "1"});
    server_ = std::make_unique<HttpServer>(options, handler_.get());
    ASSERT_TRUE(server_->Start().ok());
  }
  TlsMaterial Material(const std::string& name, const std::string& authorities = "") const {
    const TestIdentity identity = authority_.Sign(name);
    return *MakeTlsMaterial(identity.certificate, identity.key, authorities);
  }

  const TestAuthority authority_{"authority"};
  const TestAuthority other_{"other"};
  FakeService service_;
  TlsSource source_{Material("first")};
  std::unique_ptr<ApiHandler> handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpTlsTest, AnswersOneRequestAfterAnotherAndEndsInOrder) {
  Serve();
  TlsClient client(server_->port());
  ASSERT_TRUE(client.is_connected());
  for (int i = 0; i < 3; ++i) {
    client.Send(GetRequest("/health"));
    EXPECT_THAT(client.ReceiveUntil("ok"), StartsWith("HTTP/1.1 200 OK"));
  }
  client.Send(GetRequest("/health", "Connection: close\r\n"));
  EXPECT_TRUE(client.EndsInOrder());
  EXPECT_TRUE(WaitFor([&] { return server_->num_connections() == 1; }));  // it waits for us
  client.SayGoodbye();
  EXPECT_TRUE(WaitFor([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpTlsTest, StreamsAndNoticesThatTheClientLeaves) {
  Serve();
  auto client = std::make_unique<TlsClient>(server_->port());
  client->Send(PostRequest("/v1/completions", R"({"prompt":"hi","stream":true})"));
  ASSERT_TRUE(WaitFor([&] { return service_.num_calls() == 1; }));
  client.reset();
  EXPECT_TRUE(WaitFor([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpTlsTest, NewConnectionsSeeTheNewCertificate) {
  Serve();
  TlsClient old(server_->port());
  EXPECT_EQ(old.certificate(), "first");
  source_.Set(Material("second"));
  EXPECT_EQ(TlsClient(server_->port()).certificate(), "second");
  old.Send(GetRequest("/health"));
  EXPECT_THAT(old.ReceiveUntil("ok"), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(HttpTlsTest, APlainRequestIsToldSo) {
  Serve();
  const RawResponse answer = RoundTrip(server_->port(), GetRequest("/health"));
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.error_code(), "tls_required");
}

TEST_F(HttpTlsTest, NoiseAndSilenceAreDropped) {
  Serve({.head_timeout = std::chrono::milliseconds(50)});
  RawClient noise(server_->port());
  noise.Send("\x16\x03\x01 what is this");
  EXPECT_TRUE(noise.WaitForClose());
  RawClient silence(server_->port());
  EXPECT_TRUE(silence.WaitForClose());
}

TEST_F(HttpTlsTest, AsksForACertificateWhereItIsTold) {
  source_.Set(Material("server", other_.certificate()));
  for (const bool asks : {false, true}) {
    Serve({.asks_clients = asks});
    const auto is_answered = [&](const TestIdentity& own) {
      TlsClient client(server_->port(), own);
      client.Send(GetRequest("/health"));
      return !client.ReceiveUntil("ok").empty();
    };
    EXPECT_TRUE(is_answered(other_.Sign("client")));
    EXPECT_EQ(is_answered({}), !asks);
    EXPECT_EQ(is_answered(authority_.Sign("client")), !asks);
  }
}

}  // namespace
}  // namespace paceline::router
