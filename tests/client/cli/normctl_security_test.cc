// normctl with TLS and tokens, and the tokens that it makes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/certificates.h"
#include "tests/client/cli/normctl_fixture.h"
#include "tests/client/guarded_server.h"

namespace normd {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;
using tests::Certificate;
using tests::GuardedServer;
using tests::Outcome;

class NormctlSecurityTest : public tests::NormctlTest {
 protected:
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_.Path(name), std::ios::trunc) << text;
  }
  // normctl against `server`, with `variables` as "A=x B=y".
  Outcome Ask(const GuardedServer& server, const std::string& arguments, const std::string& variables = "") {
    return Shell(absl::StrCat(variables, " NORMD_SERVER=", server.target(), " ", NORMCTL_BINARY, " ", arguments));
  }
};

TEST_F(NormctlSecurityTest, EveryVerbShowsTheToken) {
  const GuardedServer server("secret", grpc::InsecureServerCredentials());
  Write("token", "secret\n");
  WriteFloats("x.npy", {2, 1}, {1, 2});
  for (const char* const verb : {"layer get a", "layer list", "infer a $D/x.npy $D/y.npy", "train a $D/x.npy",
                                 "describe a", "watch a", "snapshot list", "backup $D/backup", "top --once",
                                 "log-level", "health", "bench --shape 2,1 --duration 100ms"}) {
    EXPECT_THAT(Ask(server, absl::StrCat(verb, " --token-file $D/token")).err, HasSubstr("past the door")) << verb;
  }
  for (const auto& [method, headers] : server.seen()) EXPECT_THAT(headers, Each("Bearer secret")) << method;
}

TEST_F(NormctlSecurityTest, TakesTheTokenFromTheEnvironmentToo) {
  const GuardedServer server("secret", grpc::InsecureServerCredentials());
  Write("token", "secret\n");
  Write("wrong", "another\n");
  EXPECT_THAT(Ask(server, "layer list", "NORMD_TOKEN=secret").err, HasSubstr("past the door"));
  EXPECT_THAT(Ask(server, "layer list", "NORMD_TOKEN_FILE=$D/token").err, HasSubstr("past the door"));
  EXPECT_THAT(Ask(server, "layer list --token-file $D/token", "NORMD_TOKEN=another NORMD_TOKEN_FILE=$D/wrong").err,
              HasSubstr("past the door"));
  EXPECT_THAT(Ask(server, "layer list", "NORMD_TOKEN=secret NORMD_TOKEN_FILE=$D/token").err,
              HasSubstr("both token and token_file"));
  for (const char* const variables : {"", "NORMD_TOKEN=another"}) {
    const Outcome refused = Ask(server, "layer list", variables);
    EXPECT_EQ(refused.code, 1);
    EXPECT_THAT(refused.err, AllOf(HasSubstr("UNAUTHENTICATED"), HasSubstr("--token-file"), Not(HasSubstr("another"))));
  }
  EXPECT_THAT(Ask(server, "layer list --token secret").code, 2);
}

TEST_F(NormctlSecurityTest, SpeaksTls) {
  const Certificate authority = Certificate::Authority("tests");
  const Certificate host = authority.Issue("norm.example");
  const Certificate client = authority.Issue("operator");
  grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_key_cert_pairs.push_back({host.key(), host.certificate()});
  options.pem_root_certs = authority.certificate();
  const GuardedServer server("secret", grpc::SslServerCredentials(options));
  Write("ca.pem", authority.certificate());
  Write("client.pem", client.certificate());
  Write("client.key", client.key());
  const std::string flags =
      "layer list --tls-ca $D/ca.pem --tls-cert $D/client.pem --tls-key $D/client.key --tls-server-name norm.example";
  EXPECT_THAT(Ask(server, flags, "NORMD_TOKEN=secret").err, HasSubstr("past the door"));
  EXPECT_THAT(Ask(server, "layer list",
                  "NORMD_TOKEN=secret NORMD_TLS_CA=$D/ca.pem NORMD_TLS_CERT=$D/client.pem "
                  "NORMD_TLS_KEY=$D/client.key NORMD_TLS_SERVER_NAME=norm.example")
                  .err,
              HasSubstr("past the door"));
  for (const char* const less : {"--tls", "--tls-ca $D/ca.pem --tls-server-name norm.example", ""}) {
    const Outcome refused = Ask(server, absl::StrCat("layer list --timeout 2s ", less), "NORMD_TOKEN=secret");
    EXPECT_EQ(refused.code, 1) << less;
    EXPECT_THAT(refused.err, AnyOf(HasSubstr("UNAVAILABLE"), HasSubstr("DEADLINE_EXCEEDED"))) << less;
  }
  EXPECT_THAT(Ask(server, "layer list --tls-ca $D/none").err, HasSubstr("none' cannot be read"));
}

TEST_F(NormctlSecurityTest, MakesATokenAndItsLine) {
  const Outcome made = Run("token rl-trainer.1 'train:rl.*' 'read:*' admin:model.bn1 --server nowhere:1");
  EXPECT_EQ(made.code, 0);
  EXPECT_THAT(made.out, MatchesRegex("normd_[A-Za-z0-9_-]{43}\n"));
  // What the system's own tool takes the hash of.
  Write("token", made.out);
  const std::string hash = Shell("tr -d '\\n' <$D/token | sha256sum | cut -c1-64 | tr -d '\\n'").out;
  EXPECT_EQ(made.err, absl::StrCat("rl-trainer.1 sha256:", hash, " train:rl.* read:* admin:model.bn1\n"));
  EXPECT_NE(Run("token a").out, Run("token a").out);
  EXPECT_THAT(Run("token a").err, MatchesRegex("a sha256:[0-9a-f]{64}\n"));

  for (const char* const wrong :
       {"", "'a b'", "a/b", "''", "a write:x", "a read", "a read:", "a 'read:*a'", "a 'read:a**'", "a 'read:a b'",
        "a 'Read:*'", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}) {
    const Outcome refused = Run(absl::StrCat("token ", wrong));
    EXPECT_EQ(refused.code, 2) << wrong;
    EXPECT_THAT(refused.out, IsEmpty()) << wrong;
  }
  EXPECT_THAT(Run("token a write:x").err, HasSubstr("'write:x' is no grant; want read, train or admin"));
}

}  // namespace
}  // namespace normd
