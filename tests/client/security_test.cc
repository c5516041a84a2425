#include <gmock/gmock.h>
#include <grpcpp/security/server_credentials.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/cpp/src/target.h"
#include "normd/client.h"
#include "normd/moments.h"
#include "tests/certificates.h"
#include "tests/client/guarded_server.h"
#include "tests/integration/test_server.h"
#include "tests/status_matchers.h"

// TLS and tokens of the SDK, against a server that looks at nothing else.
namespace normd {
namespace {

using absl::StatusCode;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using tests::Certificate;
using tests::GuardedServer;
using tests::StatusIs;

constexpr char kToken[] = "normd_0-secret_~/+x==";
constexpr char kHeader[] = "Bearer normd_0-secret_~/+x==";

std::shared_ptr<grpc::ServerCredentials> TlsServer(const Certificate& server, const Certificate* client_ca = nullptr) {
  grpc::SslServerCredentialsOptions options(client_ca == nullptr
                                                ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_key_cert_pairs.push_back({server.key(), server.certificate()});
  if (client_ca != nullptr) options.pem_root_certs = client_ca->certificate();
  return grpc::SslServerCredentials(options);
}

class SecurityTest : public ::testing::Test {
 protected:
  SecurityTest() {
    // What cannot work is not tried for long.
    options_.retry.max_attempts = 1;
    options_.timeout = absl::Seconds(20);
    options_.on_warning = [this](absl::string_view text) { warnings_.emplace_back(text); };
  }

  std::string Write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.Path(name), std::ios::trunc) << text;
    return folder_.Path(name);
  }

  TlsOptions Trusting(const Certificate& authority) const {
    TlsOptions tls;
    tls.root_certificates_file = Write("ca.pem", authority.certificate());
    return tls;
  }

  // Of any call: what a client with the options gets.
  absl::Status Ask(const std::string& target) const {
    return Client::Connect(target, options_)->GetLayer("a").status();
  }

  const tests::TempDir folder_;
  const Certificate authority_ = Certificate::Authority("tests");
  ClientOptions options_;
  std::vector<std::string> warnings_;
};

// Every method of a client once.
void CallAll(Client* client) {
  const std::vector<float> values = {1, 2};
  const TensorView x(values, {2, 1});
  const auto refused = StatusIs(StatusCode::kUnimplemented, "past the door");
  LayerSpec spec;
  spec.name = "a";
  spec.config.num_channels = 1;
  EXPECT_THAT(client->CreateLayer(spec), refused);
  EXPECT_THAT(client->GetLayer("a"), refused);
  EXPECT_THAT(client->ListLayers(), refused);
  EXPECT_THAT(client->UpdateLayer("a", {}, {"eps"}), refused);
  EXPECT_THAT(client->DeleteLayer("a"), refused);
  EXPECT_THAT(client->ResetStatistics("a"), refused);
  EXPECT_THAT(client->SetState("a", {}), refused);
  EXPECT_THAT(client->ForkLayer("a", "b"), refused);
  EXPECT_THAT(client->Watch({})->Next(), refused);
  EXPECT_THAT(client->CreateSnapshot("s"), refused);
  EXPECT_THAT(client->ListSnapshots(), refused);
  EXPECT_THAT(client->RestoreSnapshot("s"), refused);
  EXPECT_THAT(client->DeleteSnapshot("s"), refused);
  EXPECT_THAT(client->Backup([](absl::string_view, int64_t) { return absl::OkStatus(); }), refused);
  EXPECT_THAT(client->RestoreBackup([](absl::Span<char>) { return 0; }), refused);
  EXPECT_THAT(client->TrainStep("a", x), refused);
  EXPECT_THAT(client->Infer("a", x), refused);
  EXPECT_THAT(client->Denormalize("a", x), refused);
  EXPECT_THAT(client->Backward("a", x, x), refused);
  EXPECT_THAT(client->MergeMoments("a", Moments()), refused);
  EXPECT_THAT(client->Health(), refused);
  EXPECT_THAT(client->GetStatistics(), refused);
  EXPECT_THAT(client->GetLogLevel(), refused);
  EXPECT_THAT(client->SetLogLevel(LogLevel::kDebug), refused);

  std::promise<absl::Status> infer;
  client->InferAsync("a", x, {}, [&](const absl::StatusOr<InferResult>& y) { infer.set_value(y.status()); });
  EXPECT_THAT(infer.get_future().get(), refused);
  EXPECT_THAT(client->OpenSteps()->Finish(), refused);
  ChunkedTensor chunked;
  chunked.shape = {2, 1};
  const ChunkSource source = [](int64_t, absl::Span<char>) { return absl::OkStatus(); };
  const ChunkSink sink = [](int64_t, absl::Span<const char>) { return absl::OkStatus(); };
  EXPECT_THAT(client->InferChunked("a", chunked, source, sink), refused);
  EXPECT_THAT(client->TrainStepChunked("a", chunked, source, sink), refused);
}

// The API's methods that a client calls, with CallAll and shared memory.
std::vector<std::string> Methods() {
  std::vector<std::string> methods;
  const auto add = [&methods](const std::string& service, const std::vector<std::string>& names) {
    for (const std::string& name : names) methods.push_back("/" + service + "/" + name);
  };
  add("grpc.health.v1.Health", {"Check"});
  add("normd.v1.LayerService", {"CreateLayer", "GetLayer", "ListLayers", "UpdateLayer", "DeleteLayer",
                                "ResetStatistics", "SetState", "ForkLayer", "WatchLayers"});
  add("normd.v1.SnapshotService",
      {"CreateSnapshot", "ListSnapshots", "RestoreSnapshot", "DeleteSnapshot", "Backup", "RestoreBackup"});
  add("normd.v1.NormalizationService",
      {"TrainStep", "Infer", "Denormalize", "Backward", "MergeMoments", "Steps", "InferStream", "TrainStepStream"});
  add("normd.v1.AdminService", {"GetStatistics", "GetLogLevel", "SetLogLevel"});
  add("normd.v1.SharedMemoryService", {"OpenSession", "RegisterRegion"});
  return methods;
}

TEST_F(SecurityTest, EveryKindOfCallCarriesTheToken) {
  const std::shared_ptr<grpc::ServerCredentials> insecure = grpc::InsecureServerCredentials();
  struct Case {
    std::string host;
    std::shared_ptr<grpc::ServerCredentials> credentials;
    bool tls;
  };
  for (const Case& way : {Case{"localhost", TlsServer(authority_.Issue("localhost")), true},
                          Case{"localhost", insecure, false}, Case{"unix:" + folder_.Path("s"), insecure, false}}) {
    SCOPED_TRACE(way.host);
    const GuardedServer server(kToken, way.credentials, way.host);
    options_.tls.reset();
    if (way.tls) options_.tls = Trusting(authority_);
    options_.token = kToken;
    options_.transport = Transport::kSharedMemory;
    options_.shared_memory_min_bytes = 1 << 10;
    const std::unique_ptr<Client> client = Client::Connect(server.target(), options_);
    EXPECT_THAT(client->AllocateTensor(DType::kFloat32, {1000, 1}), tests::IsOk());
    CallAll(client.get());
    const auto seen = server.seen();
    for (const std::string& method : Methods()) {
      EXPECT_TRUE(seen.contains(method)) << method;
    }
    EXPECT_THAT(seen, SizeIs(Methods().size()));
    for (const auto& [method, headers] : seen) EXPECT_THAT(headers, Each(kHeader)) << method;
    EXPECT_THAT(warnings_, IsEmpty());
  }
}

// A proxy that knows nothing of our messages sends the calls of a layer to one server by it.
TEST_F(SecurityTest, CallsOfOneLayerCarryItsName) {
  const GuardedServer server(kToken, grpc::InsecureServerCredentials());
  options_.token = kToken;
  const std::unique_ptr<Client> client = Client::Connect(server.target(), options_);
  CallAll(client.get());
  const auto layers = server.layers();
  for (const char* method :
       {"LayerService/CreateLayer", "LayerService/GetLayer", "LayerService/UpdateLayer", "LayerService/DeleteLayer",
        "LayerService/ResetStatistics", "LayerService/SetState", "LayerService/ForkLayer",
        "NormalizationService/TrainStep", "NormalizationService/Infer", "NormalizationService/Denormalize",
        "NormalizationService/Backward", "NormalizationService/MergeMoments", "NormalizationService/InferStream",
        "NormalizationService/TrainStepStream"}) {
    EXPECT_THAT(layers.at(absl::StrCat("/normd.v1.", method)), Each("a")) << method;
  }
  // Of several layers, or of none.
  for (const char* method : {"LayerService/ListLayers", "LayerService/WatchLayers", "NormalizationService/Steps",
                             "SnapshotService/CreateSnapshot", "SnapshotService/RestoreSnapshot"}) {
    EXPECT_THAT(layers.at(absl::StrCat("/normd.v1.", method)), Each("")) << method;
  }
  // What no header may hold is no name either.
  EXPECT_THAT(client->GetLayer("a\nb"), StatusIs(StatusCode::kUnimplemented, "past the door"));
  EXPECT_THAT(server.layers().at("/normd.v1.LayerService/GetLayer"), ElementsAre("a", ""));
}

TEST_F(SecurityTest, WithoutATokenNoCallCarriesOneAndNoneIsTriedAgain) {
  const GuardedServer server(kToken, grpc::InsecureServerCredentials());
  options_.retry.max_attempts = 4;
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnauthenticated, "no token"));
  EXPECT_THAT(server.seen().at("/normd.v1.LayerService/GetLayer"), ElementsAre(""));
  options_.token = "another";
  EXPECT_THAT(Ask(server.target()),
              StatusIs(StatusCode::kUnauthenticated, AllOf(HasSubstr("unknown token"), Not(HasSubstr("another")))));
  EXPECT_THAT(server.seen().at("/normd.v1.LayerService/GetLayer"), ElementsAre("", "Bearer another"));
}

TEST_F(SecurityTest, ATokenFileIsReadForEachCall) {
  GuardedServer server("one", grpc::InsecureServerCredentials());
  options_.token_file = Write("token", "one\r\n\n");
  const std::unique_ptr<Client> client = Client::Connect(server.target(), options_);
  EXPECT_THAT(client->GetLayer("a"), StatusIs(StatusCode::kUnimplemented));
  Write("token", "two");
  EXPECT_THAT(client->GetLayer("a"), StatusIs(StatusCode::kUnauthenticated));
  server.set_token("two");
  EXPECT_THAT(client->GetLayer("a"), StatusIs(StatusCode::kUnimplemented));
  EXPECT_THAT(warnings_, IsEmpty());

  // In the middle of being replaced, whatever it looks like.
  std::filesystem::remove(options_.token_file);
  EXPECT_THAT(client->GetLayer("a"), StatusIs(StatusCode::kUnimplemented));
  Write("token", "");
  EXPECT_THAT(client->GetLayer("a"), StatusIs(StatusCode::kUnimplemented));
  EXPECT_THAT(warnings_, ElementsAre(AllOf(HasSubstr("No such file"), HasSubstr(options_.token_file))));
  Write("token", "three\n");
  server.set_token("three");
  EXPECT_THAT(client->GetLayer("a"), StatusIs(StatusCode::kUnimplemented));
}

TEST_F(SecurityTest, WhatIsNoTokenIsRefusedWithoutShowingIt) {
  const GuardedServer server(kToken, grpc::InsecureServerCredentials());
  const auto refused = [&](StatusCode code, const std::string& text) {
    EXPECT_THAT(Ask(server.target()), StatusIs(code, AllOf(HasSubstr(text), Not(HasSubstr("secret")))));
    const std::unique_ptr<Client> client = Client::Connect(server.target(), options_);
    EXPECT_THAT(client->OpenSteps()->Finish(), StatusIs(code, text));
    EXPECT_THAT(client->Watch({})->Next(), StatusIs(code, text));
    options_.token.clear();
    options_.token_file.clear();
  };
  options_.token = "secret\n";
  refused(StatusCode::kInvalidArgument, "token holds, as byte 7, ");
  options_.token = "secret secret";
  refused(StatusCode::kInvalidArgument, "token holds, as byte 7, ");
  options_.token = std::string(5000, 's');
  refused(StatusCode::kInvalidArgument, "token has 5000 bytes, want at most 4096");
  options_.token = "secret";
  options_.token_file = Write("token", "secret");
  refused(StatusCode::kInvalidArgument, "got both token and token_file");
  options_.token_file = folder_.Path("none");
  refused(StatusCode::kFailedPrecondition, "none' cannot be read: No such file or directory");
  options_.token_file = folder_.Path("");
  refused(StatusCode::kFailedPrecondition, "cannot be read: Is a directory");
  options_.token_file = Write("token", "");
  refused(StatusCode::kFailedPrecondition, "token' is empty");
  options_.token_file = Write("token", "\n");
  refused(StatusCode::kFailedPrecondition, "token' is empty");
  options_.token_file = Write("token", "secret\nsecret\n");
  refused(StatusCode::kFailedPrecondition, "token' holds, as byte 7, ");
  EXPECT_THAT(server.seen(), IsEmpty());
}

TEST_F(SecurityTest, ATokenGoesNowhereWhereOthersCouldReadIt) {
  options_.token = kToken;
  options_.timeout = absl::Milliseconds(200);
  const auto refused = StatusIs(StatusCode::kInvalidArgument, "want TLS");
  // Of a documentation's network (RFC 5737), where nobody is.
  EXPECT_THAT(Ask("192.0.2.1:50051"), refused);
  EXPECT_THAT(Ask("127.0.0.1.example:50051"), refused);
  EXPECT_THAT(Ask("localhost.example:50051"), refused);
  options_.allow_token_without_tls = true;
  EXPECT_NE(Ask("192.0.2.1:50051").code(), StatusCode::kInvalidArgument);
  options_.allow_token_without_tls = false;
  options_.tls.emplace();
  EXPECT_NE(Ask("192.0.2.1:50051").code(), StatusCode::kInvalidArgument);
}

TEST_F(SecurityTest, KnowsTheWaysThatStayOnThisMachine) {
  for (const char* const target :
       {"localhost:1", "LOCALHOST:1", "127.0.0.1:1", "127.255.1.2:1", "[::1]:1", "::1", "localhost",
        "dns:///localhost:1", "dns:127.0.0.1:1", "ipv4:127.0.0.1:1", "ipv6:[::1]:1", "ipv6:[0:0:0:0:0:0:0:1]:1"}) {
    EXPECT_TRUE(internal::IsLoopback(target)) << target;
  }
  for (const char* const target :
       {"", ":1", "10.0.0.1:1", "127.0.0.1.evil.example:1", "127.evil.example:1", "localhost.evil.example:1", "[::2]:1",
        "[::1", "dns://10.0.0.1/localhost:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "unix:localhost", "xds:///localhost:1"}) {
    EXPECT_FALSE(internal::IsLoopback(target)) << target;
  }
  EXPECT_TRUE(internal::IsUnixSocket("unix:/s"));
  EXPECT_TRUE(internal::IsUnixSocket("unix-abstract:s"));
  EXPECT_FALSE(internal::IsUnixSocket("unix.example:1"));
}

TEST_F(SecurityTest, TrustsOnlyWhomItIsToldTo) {
  const Certificate other = Certificate::Authority("others");
  const GuardedServer server(kToken, TlsServer(authority_.Issue("localhost")));
  options_.token = kToken;
  options_.tls = Trusting(authority_);
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnimplemented));
  // A chain of more than the one that matters.
  options_.tls->root_certificates_file = Write("ca.pem", other.certificate() + authority_.certificate());
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnimplemented));
  options_.tls = Trusting(other);
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnavailable, "certificate verify failed"));
  // The system knows nothing of a test's authority.
  options_.tls.emplace();
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnavailable));
  options_.tls.reset();
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnavailable));
  EXPECT_THAT(server.seen().at("/normd.v1.LayerService/GetLayer"), SizeIs(2));
}

TEST_F(SecurityTest, TheCertificateMustBeForTheServerAndOfToday) {
  options_.tls = Trusting(authority_);
  const GuardedServer elsewhere(kToken, TlsServer(authority_.Issue("norm.example")));
  options_.token = kToken;
  EXPECT_THAT(Ask(elsewhere.target()), StatusIs(StatusCode::kUnavailable, "localhost is not in peer certificate"));
  options_.tls->server_name = "norm.example";
  EXPECT_THAT(Ask(elsewhere.target()), StatusIs(StatusCode::kUnimplemented));
  options_.tls->server_name.clear();
  const GuardedServer late(kToken, TlsServer(authority_.Issue("localhost", std::chrono::hours(-1))));
  EXPECT_THAT(Ask(late.target()), StatusIs(StatusCode::kUnavailable, "certificate verify failed"));
  EXPECT_THAT(late.seen(), IsEmpty());
}

TEST_F(SecurityTest, ShowsItsCertificateToAServerThatWantsOne) {
  const Certificate client = authority_.Issue("worker");
  const GuardedServer server(kToken, TlsServer(authority_.Issue("localhost"), &authority_));
  options_.token = kToken;
  options_.tls = Trusting(authority_);
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnavailable));
  const Certificate stranger = Certificate::Authority("others").Issue("worker");
  options_.tls->certificate_chain_file = Write("client.pem", stranger.certificate());
  options_.tls->private_key_file = Write("client.key", stranger.key());
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnavailable));
  EXPECT_THAT(server.seen(), IsEmpty());
  Write("client.pem", client.certificate());
  Write("client.key", client.key());
  EXPECT_THAT(Ask(server.target()), StatusIs(StatusCode::kUnimplemented));
}

TEST_F(SecurityTest, FilesThatCannotWorkAreNamed) {
  const GuardedServer server(kToken, TlsServer(authority_.Issue("localhost")));
  const Certificate client = authority_.Issue("worker");
  const auto refused = [&](StatusCode code, const std::string& text) {
    EXPECT_THAT(Ask(server.target()), StatusIs(code, text));
    options_.tls = Trusting(authority_);
  };
  options_.tls = TlsOptions();
  options_.tls->root_certificates_file = folder_.Path("none");
  refused(StatusCode::kFailedPrecondition,
          "tls.root_certificates_file '" + folder_.Path("none") + "' cannot be read: ");
  options_.tls->root_certificates_file = Write("bad", "");
  refused(StatusCode::kFailedPrecondition, "bad' is empty");
  options_.tls->root_certificates_file = Write("bad", client.key());
  refused(StatusCode::kFailedPrecondition, "bad' holds no certificate in PEM");
  options_.tls->certificate_chain_file = Write("client.pem", client.certificate());
  refused(StatusCode::kInvalidArgument, "got tls.certificate_chain_file without private_key_file");
  options_.tls->private_key_file = Write("client.key", client.key());
  refused(StatusCode::kInvalidArgument, "got tls.private_key_file without certificate_chain_file");
  const auto pair = [&](const std::string& chain, const std::string& key) {
    options_.tls->certificate_chain_file = Write("client.pem", chain);
    options_.tls->private_key_file = Write("client.key", key);
  };
  pair(client.key(), client.key());
  refused(StatusCode::kFailedPrecondition, "client.pem' holds no certificate in PEM");
  pair(client.certificate(), client.certificate());
  refused(StatusCode::kFailedPrecondition, "client.key' holds no private key in PEM");
  pair(client.certificate(), authority_.Issue("worker").key());
  refused(StatusCode::kFailedPrecondition, "client.key' is not the key of the first certificate in tls.");
  EXPECT_THAT(Ask("unix:" + folder_.Path("s")), StatusIs(StatusCode::kInvalidArgument, "Unix sockets have no TLS"));
  EXPECT_THAT(server.seen(), IsEmpty());
}

}  // namespace
}  // namespace normd
