#include "proto/support/tls.h"

#include <ctime>

#include "gmock/gmock.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "proto/support/tls_grpc.h"
#include "tests/fakes/certificates.h"

namespace paceline {
namespace {

using testing::HasSubstr;
using testing::Not;

TlsMaterial Material(const TestIdentity& identity, const std::string& authorities = "") {
  return *MakeTlsMaterial(identity.certificate, identity.key, authorities);
}

class TlsTest : public testing::Test {
 protected:
  static std::string Refusal(const std::string& certificates,
                             const std::string& key,
                             const std::string& authorities = "") {
    const auto material = MakeTlsMaterial(certificates, key, authorities);
    EXPECT_EQ(material.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(material.status().message());
  }

  const TestAuthority authority_{"first"};
  const TestAuthority other_{"second"};
};

TEST_F(TlsTest, TakesACertificateWithItsKeyAndSaysWhenItEnds) {
  const TestIdentity identity = authority_.Sign("server", 7200);
  const auto material = MakeTlsMaterial(identity.certificate, identity.key, other_.certificate());
  ASSERT_TRUE(material.ok()) << material.status();
  EXPECT_NEAR(
      static_cast<double>(material->expires_s), static_cast<double>(std::time(nullptr) + 7200), 60);
  EXPECT_TRUE(
      MakeTlsMaterial(identity.certificate + authority_.certificate(), identity.key, "").ok())
      << "a chain";
}

TEST_F(TlsTest, TakesAuthoritiesAloneAndNothingAtAll) {
  EXPECT_TRUE(MakeTlsMaterial("", "", authority_.certificate() + other_.certificate()).ok());
  EXPECT_TRUE(MakeTlsMaterial("", "", "").ok());
}

TEST_F(TlsTest, TakesAnExpiredOneSinceClientsSaySo) {
  const TestIdentity identity = authority_.Sign("server", -60);
  const auto material = MakeTlsMaterial(identity.certificate, identity.key, "");
  ASSERT_TRUE(material.ok()) << material.status();
  EXPECT_LT(material->expires_s, std::time(nullptr));
}

TEST_F(TlsTest, SaysWhatIsWrong) {
  const TestIdentity a = authority_.Sign("a");
  const TestIdentity b = authority_.Sign("b");
  EXPECT_THAT(Refusal(a.certificate, b.key), HasSubstr("the key is not that of the certificate"));
  EXPECT_THAT(Refusal("no PEM", a.key), HasSubstr("holds no certificate"));
  EXPECT_THAT(Refusal(a.certificate, "no PEM"), HasSubstr("no private key"));
  EXPECT_THAT(Refusal(a.certificate, ""), HasSubstr("no private key"));
  EXPECT_THAT(Refusal(a.key, a.certificate), HasSubstr("holds no certificate"));
  const std::string cut = a.certificate.substr(0, a.certificate.size() / 2);
  EXPECT_THAT(Refusal(a.certificate + cut, a.key), HasSubstr("damaged"));
  EXPECT_THAT(Refusal("", "", "no PEM"), HasSubstr("authorities: holds no certificate"));
}

TEST_F(TlsTest, NoMessageShowsTheKey) {
  const TestIdentity a = authority_.Sign("a");
  std::string broken = a.key;
  broken[60] = '!';
  EXPECT_THAT(Refusal(a.certificate, broken), Not(HasSubstr(a.key.substr(30, 20))));
}

// A gRPC server without services: what it answers shows that the handshake was passed.
class TlsGrpcTest : public TlsTest {
 protected:
  void Serve(TlsMaterial material) {
    source_ = std::make_unique<TlsSource>(std::move(material));
    credentials_ = ServerCredentialsOf(source_.get());
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", credentials_, &port_);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }
  ~TlsGrpcTest() override {
    if (server_ != nullptr) server_->Shutdown();
  }

  // UNIMPLEMENTED: connected. A channel of its own each time.
  grpc::StatusCode Call(const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    const auto channel =
        grpc::CreateCustomChannel("127.0.0.1:" + std::to_string(port_), credentials, arguments);
    return CallOn(channel);
  }
  static grpc::StatusCode CallOn(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::GenericStub stub(channel);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    grpc::CompletionQueue queue;
    grpc::Status status;
    grpc::ByteBuffer response;
    const auto call = stub.PrepareUnaryCall(&context, "/x/y", grpc::ByteBuffer(), &queue);
    call->StartCall();
    call->Finish(&response, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    queue.Next(&tag, &ok);
    return status.error_code();
  }
  grpc::StatusCode Call(const TlsMaterial& client) {
    const TlsSource source(client);
    return Call(ChannelCredentialsOf(&source));
  }

  std::unique_ptr<TlsSource> source_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  grpc::CallbackGenericService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

TEST_F(TlsGrpcTest, OnlyWhoTrustsTheAuthorityConnects) {
  Serve(Material(authority_.Sign("server")));
  EXPECT_EQ(Call(*MakeTlsMaterial("", "", authority_.certificate())),
            grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Call(*MakeTlsMaterial("", "", other_.certificate())), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(grpc::InsecureChannelCredentials()), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsGrpcTest, WithAuthoritiesItAsksForACertificateOfTheirs) {
  Serve(Material(authority_.Sign("server"), other_.certificate()));
  const std::string& trusted = authority_.certificate();
  EXPECT_EQ(Call(Material(other_.Sign("client"), trusted)), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Call(Material(authority_.Sign("client"), trusted)), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(*MakeTlsMaterial("", "", trusted)), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(TlsGrpcTest, NewConnectionsSeeTheNewCertificateAndOldOnesStay) {
  Serve(Material(authority_.Sign("server")));
  const TlsSource trust(*MakeTlsMaterial("", "", authority_.certificate()));
  const auto old =
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port_), ChannelCredentialsOf(&trust));
  EXPECT_EQ(CallOn(old), grpc::StatusCode::UNIMPLEMENTED);

  source_->Set(Material(other_.Sign("server")));
  EXPECT_EQ(CallOn(old), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Call(*MakeTlsMaterial("", "", authority_.certificate())),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Call(*MakeTlsMaterial("", "", other_.certificate())), grpc::StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace paceline
