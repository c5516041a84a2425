// TLS: who may connect, and certificates that change while the server runs.

#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/app/health_check.h"
#include "server/app/tls_files.h"
#include "tests/certificates.h"
#include "tests/fake_clock.h"
#include "tests/integration/captured_log.h"
#include "tests/integration/test_server.h"
#include "tests/status_matchers.h"

namespace normd::tests {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class TlsTest : public ::testing::Test {
 protected:
  // Under another inode.
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_.Path(name + ".new")) << text;
    std::filesystem::rename(folder_.Path(name + ".new"), folder_.Path(name));
  }
  void WriteServerCertificate(const Certificate& certificate) {
    Write("key.pem", certificate.key());
    Write("cert.pem", certificate.certificate());
  }

  app::TlsOptions Files() const {
    return {.cert_file = folder_.Path("cert.pem"), .key_file = folder_.Path("key.pem"), .client_ca_file = ""};
  }

  void Start(app::ServerOptions options = TestOptions(), bool mutual = false) {
    options.tls = Files();
    if (mutual) {
      Write("clients.pem", clients_.certificate());
      options.tls.client_ca_file = folder_.Path("clients.pem");
    }
    server_ = std::make_unique<TestServer>(options, log_);
    const std::string& address = server_->address();
    port_ = address.substr(address.rfind(':') + 1);
  }

  // A call on a new connection that trusts `authority` and shows `client`.
  grpc::Status List(const Certificate& authority, const Certificate* client = nullptr,
                    const std::string& host = "localhost") {
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = authority.certificate();
    if (client != nullptr) {
      options.pem_cert_chain = client->certificate();
      options.pem_private_key = client->key();
    }
    return ListWith(grpc::SslCredentials(options), host);
  }
  grpc::Status ListWith(std::shared_ptr<grpc::ChannelCredentials> credentials, const std::string& host = "localhost") {
    const auto stub = v1::LayerService::NewStub(NewChannel(absl::StrCat(host, ":", port_), std::move(credentials)));
    v1::ListLayersResponse response;
    return Call(*stub, &v1::LayerService::Stub::ListLayers, v1::ListLayersRequest(), &response);
  }

  TempDir folder_;
  const Certificate authority_ = Certificate::Authority("authority");
  const Certificate clients_ = Certificate::Authority("clients");
  std::shared_ptr<CapturedLog> log_ = std::make_shared<CapturedLog>();
  std::unique_ptr<TestServer> server_;
  std::string port_;
};

TEST_F(TlsTest, OnlyTlsAndOnlyTheRightServer) {
  WriteServerCertificate(authority_.Issue("localhost"));
  Start();
  EXPECT_THAT(List(authority_), GrpcIsOk());
  EXPECT_EQ(List(clients_).error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(List(authority_, nullptr, "127.0.0.1").error_code(), grpc::UNAVAILABLE);  // Not the certificate's name.
  EXPECT_EQ(ListWith(grpc::InsecureChannelCredentials()).error_code(), grpc::UNAVAILABLE);
}

TEST_F(TlsTest, MutualTlsTakesACertificateOfTheClientsAuthority) {
  WriteServerCertificate(authority_.Issue("localhost"));
  Start(TestOptions(), /*mutual=*/true);
  const Certificate trainer = clients_.Issue("trainer");
  const Certificate stranger = authority_.Issue("trainer");
  const Certificate late = clients_.Issue("trainer", std::chrono::hours(-1));
  EXPECT_THAT(List(authority_, &trainer), GrpcIsOk());
  EXPECT_EQ(List(authority_).error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(List(authority_, &stranger).error_code(), grpc::UNAVAILABLE);
  EXPECT_EQ(List(authority_, &late).error_code(), grpc::UNAVAILABLE);
}

TEST_F(TlsTest, CertificatesAreIdentities) {
  WriteServerCertificate(authority_.Issue("localhost"));
  Write("access", "trainer cert:trainer.example train:*\n");
  app::ServerOptions options = TestOptions();
  options.access.file = folder_.Path("access");
  Start(options, /*mutual=*/true);
  const Certificate trainer = clients_.Issue("trainer.example");
  EXPECT_THAT(List(authority_, &trainer), GrpcIsOk());
  EXPECT_THAT(log_->Text(), HasSubstr("identity=trainer"));
  const Certificate other = clients_.Issue("other.example");
  EXPECT_THAT(List(authority_, &other),
              GrpcStatusIs(grpc::UNAUTHENTICATED, HasSubstr("the client certificate is not in the server's access")));
}

TEST_F(TlsTest, NewCertificatesAreUsedWithoutARestart) {
  WriteServerCertificate(authority_.Issue("localhost"));
  Start();
  EXPECT_THAT(List(authority_), GrpcIsOk());
  // A connection that is there stays.
  grpc::SslCredentialsOptions trust;
  trust.pem_root_certs = authority_.certificate();
  const auto old = v1::LayerService::NewStub(NewChannel("localhost:" + port_, grpc::SslCredentials(trust)));
  v1::ListLayersResponse response;
  EXPECT_THAT(Call(*old, &v1::LayerService::Stub::ListLayers, v1::ListLayersRequest(), &response), GrpcIsOk());

  const Certificate next = Certificate::Authority("next");
  WriteServerCertificate(next.Issue("localhost"));
  Await("the new certificate", [&] { return List(next).ok(); });
  EXPECT_EQ(List(authority_).error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(Call(*old, &v1::LayerService::Stub::ListLayers, v1::ListLayersRequest(), &response), GrpcIsOk());
}

TEST_F(TlsTest, WhatIsWrongChangesNothing) {
  WriteServerCertificate(authority_.Issue("localhost"));
  Start();
  EXPECT_THAT(List(authority_), GrpcIsOk());
  // The key has come, its certificate not yet.
  const Certificate next = Certificate::Authority("next");
  const Certificate certificate = next.Issue("localhost");
  Write("key.pem", certificate.key());
  Await("a look at the files", [&] {
    EXPECT_THAT(List(authority_), GrpcIsOk());
    return log_->Text().find("is not that of the certificate") != std::string::npos;
  });
  EXPECT_THAT(List(authority_), GrpcIsOk());
  Write("cert.pem", certificate.certificate());
  Await("the new certificate", [&] { return List(next).ok(); });
  EXPECT_THAT(log_->Text(), AllOf(HasSubstr("expires="), Not(HasSubstr("PRIVATE KEY"))));
}

TEST_F(TlsTest, HealthChecks) {
  WriteServerCertificate(authority_.Issue("elsewhere"));
  app::ServerOptions options = TestOptions();
  options.unix_socket = folder_.Path("socket");
  Start(options);
  app::TlsOptions tls = Files();
  EXPECT_THAT(app::CheckHealth(server_->address(), tls, absl::Seconds(30)), IsOk());
  EXPECT_THAT(app::CheckHealth("unix:" + folder_.Path("socket"), tls, absl::Seconds(30)), IsOk());
  EXPECT_THAT(app::CheckHealth(server_->address(), {}, absl::Seconds(30)),
              StatusIs(absl::StatusCode::kUnavailable, ""));
}

TEST_F(TlsTest, HealthChecksShowTheServersOwnCertificate) {
  WriteServerCertificate(clients_.Issue("localhost"));
  Start(TestOptions(), /*mutual=*/true);
  app::TlsOptions tls = Files();
  tls.client_ca_file = folder_.Path("clients.pem");
  EXPECT_THAT(app::CheckHealth(server_->address(), tls, absl::Seconds(30)), IsOk());
}

TEST_F(TlsTest, FilesAreCheckedBeforeTheyAreUsed) {
  const FakeClock clock;
  const Certificate certificate = authority_.Issue("localhost");
  const auto check = [&](const std::string& cert, const std::string& key, const std::string& client_ca,
                         absl::Time now = absl::Now()) {
    Write("cert.pem", cert);
    Write("key.pem", key);
    Write("ca.pem", client_ca);
    app::TlsOptions files = Files();
    files.client_ca_file = folder_.Path("ca.pem");
    return app::ReadTlsFiles(files, now);
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const std::string& cert = certificate.certificate();
  const std::string& key = certificate.key();
  EXPECT_THAT(check(cert, key, cert), IsOk());
  EXPECT_THAT(check(key, key, cert), StatusIs(kInvalid, AllOf(HasSubstr("tls-cert: "), HasSubstr("no certificate"))));
  EXPECT_THAT(check(cert + "-----BEGIN CERTIFICATE-----\nx", key, cert), StatusIs(kInvalid, "damaged certificate"));
  EXPECT_THAT(check(cert, cert, cert), StatusIs(kInvalid, AllOf(HasSubstr("tls-key: "), HasSubstr("no private key"))));
  EXPECT_THAT(check(cert, authority_.key(), cert), StatusIs(kInvalid, "is not that of the certificate in"));
  EXPECT_THAT(check(cert, key, "x"), StatusIs(kInvalid, "tls-client-ca: "));
  EXPECT_THAT(check(cert, key, cert, absl::Now() + absl::Hours(2)), StatusIs(kInvalid, "expired at"));
  app::TlsOptions files = Files();
  files.key_file.clear();
  EXPECT_THAT(app::ReadTlsFiles(files, absl::Now()), StatusIs(kInvalid, "both tls-cert and tls-key"));
  files.key_file = folder_.Path("none");
  EXPECT_THAT(app::ReadTlsFiles(files, absl::Now()), StatusIs(absl::StatusCode::kNotFound, "tls-key: cannot read"));
}

}  // namespace
}  // namespace normd::tests
