// The command line and the sample config file, without a process.

#include "server/app/command_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "server/app/config_check.h"
#include "server/app/listen_address.h"
#include "tests/status_matchers.h"

namespace normd::app {
namespace {

using ::normd::tests::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

absl::StatusOr<CommandLine> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "normd");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

void ExpectSame(const CommandLine& a, const CommandLine& b) {
  EXPECT_EQ(a.server.listen, b.server.listen);
  EXPECT_EQ(a.server.insecure, b.server.insecure);
  EXPECT_EQ(a.server.tls.cert_file, b.server.tls.cert_file);
  EXPECT_EQ(a.server.tls.key_file, b.server.tls.key_file);
  EXPECT_EQ(a.server.tls.client_ca_file, b.server.tls.client_ca_file);
  EXPECT_EQ(a.server.access.file, b.server.access.file);
  EXPECT_EQ(a.server.access.calls_per_second, b.server.access.calls_per_second);
  EXPECT_EQ(a.server.max_streams_per_connection, b.server.max_streams_per_connection);
  EXPECT_EQ(a.server.unix_socket, b.server.unix_socket);
  EXPECT_EQ(a.server.max_message_bytes, b.server.max_message_bytes);
  EXPECT_EQ(a.server.limits.max_layers, b.server.limits.max_layers);
  EXPECT_EQ(a.server.limits.max_channels, b.server.limits.max_channels);
  EXPECT_EQ(a.server.threads, b.server.threads);
  EXPECT_EQ(a.server.shared_memory, b.server.shared_memory);
  EXPECT_EQ(a.server.max_shared_memory_bytes, b.server.max_shared_memory_bytes);
  EXPECT_EQ(a.server.memory_budget_bytes, b.server.memory_budget_bytes);
  EXPECT_EQ(a.server.max_waiting_calls, b.server.max_waiting_calls);
  EXPECT_EQ(a.server.release_memory_after, b.server.release_memory_after);
  EXPECT_EQ(a.server.store.location, b.server.store.location);
  EXPECT_EQ(a.server.store.durability, b.server.store.durability);
  EXPECT_EQ(a.server.store.sync_interval, b.server.store.sync_interval);
  EXPECT_EQ(a.server.limits.requests.window, b.server.limits.requests.window);
  EXPECT_EQ(a.server.limits.requests.per_layer, b.server.limits.requests.per_layer);
  EXPECT_EQ(a.server.limits.requests.total, b.server.limits.requests.total);
  EXPECT_EQ(a.server.log_slow_calls_after, b.server.log_slow_calls_after);
  EXPECT_EQ(a.server.metrics_listen, b.server.metrics_listen);
  EXPECT_EQ(a.server.metrics_max_layers, b.server.metrics_max_layers);
  EXPECT_EQ(a.log_level, b.log_level);
  EXPECT_EQ(a.log_format, b.log_format);
  EXPECT_EQ(a.drain_timeout, b.drain_timeout);
  EXPECT_EQ(a.batch_scheduling, b.batch_scheduling);
}

TEST(CommandLine, Defaults) {
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine command, Parse({}));
  EXPECT_EQ(command.action, CommandLine::Action::kServe);
  EXPECT_EQ(command.server.listen, "127.0.0.1:50051");
  EXPECT_FALSE(command.server.insecure);
  EXPECT_EQ(command.server.max_message_bytes, 256 << 20);
  EXPECT_EQ(command.server.memory_budget_bytes, 0);
  EXPECT_EQ(command.server.max_waiting_calls, 256);
  EXPECT_EQ(command.server.release_memory_after, absl::Seconds(10));
  EXPECT_EQ(command.drain_timeout, absl::Seconds(10));
  EXPECT_FALSE(command.batch_scheduling);
  EXPECT_EQ(command.log_level, LogLevel::kInfo);
  EXPECT_EQ(command.server.log_slow_calls_after, absl::InfiniteDuration());
  EXPECT_EQ(command.server.metrics_listen, "");
  EXPECT_FALSE(command.server.shared_memory);
  EXPECT_EQ(command.server.max_shared_memory_bytes, int64_t{4} << 30);
}

// Gives a variable of the environment a value (null: none) for a while.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name); before != nullptr) before_ = before;
    Set(value);
  }
  ~ScopedVariable() { Set(before_.has_value() ? before_->c_str() : nullptr); }

 private:
  void Set(const char* value) const { value != nullptr ? setenv(name_, value, 1) : unsetenv(name_); }

  const char* const name_;
  std::optional<std::string> before_;
};

TEST(CommandLine, StateGoesWhereTheSystemKeepsIt) {
  const ScopedVariable home("HOME", "/home/me");
  const auto store = [] { return Parse({}).value().server.store.location; };
  {
    const ScopedVariable state("STATE_DIRECTORY", nullptr);
    const ScopedVariable xdg("XDG_STATE_HOME", nullptr);
    EXPECT_EQ(store(), "sqlite:/home/me/.local/state/normd/normd.db");
    const ScopedVariable xdg_set("XDG_STATE_HOME", "/xdg");
    EXPECT_EQ(store(), "sqlite:/xdg/normd/normd.db");
    const ScopedVariable state_set("STATE_DIRECTORY", "/var/lib/normd");
    EXPECT_EQ(store(), "sqlite:/var/lib/normd/normd.db");
    // What is no absolute path does not count.
    const ScopedVariable relative("STATE_DIRECTORY", "relative");
    EXPECT_EQ(store(), "sqlite:/xdg/normd/normd.db");
  }
  EXPECT_THAT(Parse({"--store", "etcd://x"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "store 'etcd://x', want memory, sqlite:PATH, or redis"));
  EXPECT_THAT(Parse({"--store", "sqlite:"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "want memory, sqlite:PATH, or redis"));
  EXPECT_THAT(Parse({"--store", "redis://x:0"}), StatusIs(absl::StatusCode::kInvalidArgument, "want 1 to 65535"));
  EXPECT_THAT(Parse({"--durability", "none"}), StatusIs(absl::StatusCode::kInvalidArgument, "--durability"));
}

TEST(CommandLine, ThePasswordOfTheStoreStandsInAFileOrTheEnvironment) {
  const ScopedVariable variable("NORMD_STORE_PASSWORD", "from the environment");
  EXPECT_EQ(Parse({"--store", "redis://x"})->server.store.password, "from the environment");
  std::string path = ::testing::TempDir() + "normd_password_XXXXXX";
  close(mkstemp(path.data()));
  EXPECT_THAT(Parse({"--store-password-file", path.c_str()}),
              StatusIs(absl::StatusCode::kInvalidArgument, "has no password that can be read"));
  std::ofstream(path) << "from the file\n";
  EXPECT_EQ(Parse({"--store-password-file", path.c_str()})->server.store.password, "from the file");
  unlink(path.c_str());
}

TEST(CommandLine, EveryFlag) {
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine command, Parse({"--listen",
                                                               "[::1]:7",
                                                               "--unix-socket",
                                                               "/x",
                                                               "--log-level",
                                                               "warn",
                                                               "--log-format",
                                                               "json",
                                                               "--drain-timeout",
                                                               "0.5",
                                                               "--max-message-bytes",
                                                               "1024",
                                                               "--max-layers",
                                                               "3",
                                                               "--max-channels",
                                                               "4",
                                                               "--threads",
                                                               "5",
                                                               "--store",
                                                               "sqlite:/s.db",
                                                               "--durability",
                                                               "periodic",
                                                               "--sync-interval",
                                                               "0.25",
                                                               "--request-window",
                                                               "60",
                                                               "--max-layer-requests",
                                                               "7",
                                                               "--max-requests",
                                                               "8",
                                                               "--memory-budget",
                                                               "1048576",
                                                               "--max-waiting-calls",
                                                               "6",
                                                               "--release-memory-after",
                                                               "1.5",
                                                               "--log-slow-calls-after",
                                                               "0.25",
                                                               "--metrics-listen",
                                                               "0.0.0.0:9464",
                                                               "--insecure",
                                                               "--tls-cert",
                                                               "/c",
                                                               "--tls-key",
                                                               "/k",
                                                               "--tls-client-ca",
                                                               "/a",
                                                               "--access-file",
                                                               "/w",
                                                               "--max-calls-per-second",
                                                               "2.5",
                                                               "--max-streams-per-connection",
                                                               "10",
                                                               "--metrics-max-layers",
                                                               "9",
                                                               "--batch-scheduling",
                                                               "--shared-memory",
                                                               "--max-shared-memory-bytes",
                                                               "1000000"}));
  EXPECT_EQ(command.server.listen, "[::1]:7");
  EXPECT_TRUE(command.server.insecure);
  EXPECT_EQ(command.server.tls.cert_file, "/c");
  EXPECT_EQ(command.server.tls.key_file, "/k");
  EXPECT_EQ(command.server.tls.client_ca_file, "/a");
  EXPECT_EQ(command.server.access.file, "/w");
  EXPECT_EQ(command.server.access.calls_per_second, 2.5);
  EXPECT_EQ(command.server.max_streams_per_connection, 10);
  EXPECT_EQ(command.server.unix_socket, "/x");
  EXPECT_EQ(command.log_level, LogLevel::kWarn);
  EXPECT_EQ(command.log_format, LogFormat::kJson);
  EXPECT_EQ(command.drain_timeout, absl::Milliseconds(500));
  EXPECT_EQ(command.server.max_message_bytes, 1024);
  EXPECT_EQ(command.server.limits.max_layers, 3);
  EXPECT_EQ(command.server.limits.max_channels, 4);
  EXPECT_EQ(command.server.store.location, "sqlite:/s.db");
  EXPECT_EQ(command.server.store.durability, store::Durability::kPeriodic);
  EXPECT_EQ(command.server.store.sync_interval, absl::Milliseconds(250));
  EXPECT_EQ(command.server.limits.requests.window, absl::Minutes(1));
  EXPECT_EQ(command.server.limits.requests.per_layer, 7);
  EXPECT_EQ(command.server.limits.requests.total, 8);
  EXPECT_EQ(command.server.threads, 5);
  EXPECT_TRUE(command.batch_scheduling);
  EXPECT_TRUE(command.server.shared_memory);
  EXPECT_EQ(command.server.max_shared_memory_bytes, 1'000'000);
  EXPECT_EQ(command.server.memory_budget_bytes, 1 << 20);
  EXPECT_EQ(command.server.max_waiting_calls, 6);
  EXPECT_EQ(command.server.release_memory_after, absl::Milliseconds(1500));
  EXPECT_EQ(command.server.log_slow_calls_after, absl::Milliseconds(250));
  EXPECT_EQ(command.server.metrics_listen, "0.0.0.0:9464");
  EXPECT_EQ(command.server.metrics_max_layers, 9);
}

TEST(CommandLine, BeyondLoopbackItTakesTlsAndAWayToTellWhoCalls) {
  struct Case {
    const char* name;
    bool tls;
    bool client_ca;
    bool access_file;
    const char* missing;
  };
  for (const Case& c : std::vector<Case>{
           {"nothing", false, false, false, "want tls-cert and tls-key with access-file or tls-client-ca"},
           {"TLS", true, false, false, "whoever reaches it may read and change every layer"},
           {"tokens in clear", false, false, true,
            "tokens would travel there for all to read: want tls-cert and tls-key"},
           {"tokens", true, false, true, nullptr},
           {"certificates", true, true, false, nullptr},
       }) {
    SCOPED_TRACE(c.name);
    ServerOptions options;
    options.listen = "0.0.0.0:50051";
    if (c.tls) options.tls = {.cert_file = "/c", .key_file = "/k", .client_ca_file = c.client_ca ? "/a" : ""};
    if (c.access_file) options.access.file = "/w";
    if (c.missing == nullptr) {
      EXPECT_THAT(CheckListening(options), tests::IsOk());
      continue;
    }
    EXPECT_THAT(CheckListening(options), StatusIs(absl::StatusCode::kInvalidArgument, c.missing));
    options.insecure = true;
    EXPECT_THAT(CheckListening(options), tests::IsOk());
  }
}

TEST(CommandLine, TheSampleConfigHoldsEverySettingWithItsDefault) {
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine defaults, Parse({}));
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine sample, Parse({"--config", NORMD_SAMPLE_CONFIG}));
  ExpectSame(defaults, sample);

  // What the server says itself of its defaults.
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine checked, Parse({"--check-config"}));
  EXPECT_THAT(checked.problems, IsEmpty());
  std::istringstream settings(checked.text);
  std::set<std::string> default_lines;
  for (std::string line; std::getline(settings, line);) default_lines.insert(line);

  std::set<std::string> in_sample;
  std::ifstream file(NORMD_SAMPLE_CONFIG);
  const std::regex setting("(# )?([a-z-]+) = .*");
  for (std::string line; std::getline(file, line);) {
    std::smatch match;
    if (!std::regex_match(line, match, setting)) continue;
    EXPECT_TRUE(in_sample.insert(match[2]).second) << line << " stands there twice";
    EXPECT_TRUE(match[1].matched || default_lines.count(line) == 1) << line << " is not the default:\n" << checked.text;
  }
  std::set<std::string> in_help;
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine help, Parse({"--help"}));
  const std::regex flag("--([a-z-]+)");
  for (std::sregex_iterator it(help.text.begin(), help.text.end(), flag), end; it != end; ++it) {
    in_help.insert((*it)[1]);
  }
  for (const char* not_a_setting : {"help", "version", "config", "check-config", "healthcheck"})
    in_help.erase(not_a_setting);
  EXPECT_EQ(in_sample, in_help);
}

TEST(CommandLine, CheckConfigNamesEveryProblem) {
  std::string path = ::testing::TempDir() + "normd_config_XXXXXX";
  close(mkstemp(path.data()));
  std::ofstream(path)
      << "threads = 5000\nlisten = \"127.0.0.1:7\"\nthread = 1\nlog-level = \"loud\"\nshared-memory = maybe\n"
      << "max-layers = many\n[section]\nthreads = 1\n";
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine bad, Parse({"--check-config", "--config", path.c_str()}));
  EXPECT_EQ(bad.action, CommandLine::Action::kCheckConfig);
  EXPECT_THAT(bad.problems, ElementsAre(AllOf(StartsWith(path), HasSubstr("--threads"), HasSubstr("5000")),
                                        path + ": unknown setting 'thread'",
                                        AllOf(StartsWith(path), HasSubstr("--log-level"), HasSubstr("loud")),
                                        AllOf(StartsWith(path), HasSubstr("--shared-memory")),
                                        AllOf(StartsWith(path), HasSubstr("--max-layers"), HasSubstr("many")),
                                        path + ": unknown setting 'section.threads'"));

  std::ofstream(path) << "threads = 5\n";
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine flag,
                             Parse({"--check-config", "--config", path.c_str(), "--max-layers", "0"}));
  EXPECT_THAT(flag.problems, ElementsAre(HasSubstr("--max-layers")));
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine needs, Parse({"--check-config", "--open-inference-shared-memory"}));
  EXPECT_THAT(needs.problems, ElementsAre(HasSubstr("--shared-memory")));
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine password,
                             Parse({"--check-config", "--store-password-file", "/does/not/exist"}));
  EXPECT_THAT(password.problems, ElementsAre(HasSubstr("/does/not/exist")));
  unlink(path.c_str());
}

TEST(CommandLine, CheckConfigShowsAConfigFileOfWhatHolds) {
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine checked,
                             Parse({"--check-config", "--threads", "3", "--unix-socket", "/a \"b\"", "--shared-memory",
                                    "--sync-interval", "0.5"}));
  EXPECT_THAT(checked.problems, IsEmpty());
  std::string path = ::testing::TempDir() + "normd_config_XXXXXX";
  close(mkstemp(path.data()));
  std::ofstream(path) << checked.text;
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine again, Parse({"--config", path.c_str()}));
  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine first, Parse({"--threads", "3", "--unix-socket", "/a \"b\"",
                                                             "--shared-memory", "--sync-interval", "0.5"}));
  ExpectSame(again, first);
  unlink(path.c_str());

  NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine secret,
                             Parse({"--check-config", "--store", "redis://me:secret@host:1"}));
  EXPECT_THAT(secret.text, AllOf(HasSubstr("redis://me:***@host:1"), Not(HasSubstr("secret"))));
}

TEST(CommandLine, CheckConfigLooksAtFilesAndFolders) {
  const std::string folder = ::testing::TempDir() + "normd_check_" + std::to_string(getpid());
  std::filesystem::create_directory(folder);
  std::ofstream(folder + "/file") << "x";
  const auto problems = [](std::vector<const char*> arguments) { return ConfigProblems(Parse(arguments)->server); };
  const std::string below = "sqlite:" + folder + "/not/yet/normd.db";
  const std::string in_file = "sqlite:" + folder + "/file/normd.db";
  const std::string is_folder = "sqlite:" + folder;
  const std::string socket = folder + "/normd.sock";
  const std::string no_socket = folder + "/file";
  const std::string nowhere = folder + "/none/normd.sock";
  EXPECT_THAT(problems({"--store", below.c_str(), "--unix-socket", socket.c_str()}), IsEmpty());
  EXPECT_FALSE(std::filesystem::exists(folder + "/not"));
  EXPECT_THAT(problems({"--store", in_file.c_str()}), ElementsAre(HasSubstr("is no folder")));
  EXPECT_THAT(problems({"--store", is_folder.c_str()}), ElementsAre(HasSubstr("is no file")));
  EXPECT_THAT(problems({"--store", "memory", "--unix-socket", no_socket.c_str()}), ElementsAre(HasSubstr("no socket")));
  EXPECT_THAT(problems({"--store", "memory", "--unix-socket", nowhere.c_str()}), ElementsAre(HasSubstr("no folder")));
  EXPECT_THAT(problems({"--store", "rediss://x?ca=/does/not/exist"}), ElementsAre(HasSubstr("/does/not/exist")));
  EXPECT_THAT(problems({"--store", "memory", "--listen", "127.0.0.1:7", "--metrics-listen", "127.0.0.1:7"}),
              ElementsAre(HasSubstr("metrics-listen")));
  // All of them at once.
  EXPECT_THAT(problems({"--store", is_folder.c_str(), "--listen", ""}),
              ElementsAre(HasSubstr("nothing to listen on"), HasSubstr("store: ")));
  std::filesystem::remove_all(folder);
}

TEST(CommandLine, HealthcheckDialsWhatTheFlagsStart) {
  struct {
    std::vector<const char*> arguments;
    const char* address;
  } const cases[] = {
      {{"--healthcheck"}, "127.0.0.1:50051"},
      {{"--healthcheck", "10.0.0.1:5"}, "10.0.0.1:5"},
      {{"--listen", "0.0.0.0:7", "--healthcheck"}, "127.0.0.1:7"},
      {{"--listen", "[::]:7", "--healthcheck"}, "[::1]:7"},
      {{"--unix-socket", "/x", "--healthcheck"}, "unix:/x"},
  };
  for (const auto& c : cases) {
    NORMD_ASSERT_OK_AND_ASSIGN(const CommandLine command, Parse(c.arguments));
    EXPECT_EQ(command.action, CommandLine::Action::kCheckHealth);
    EXPECT_EQ(command.health_address, c.address);
  }
}

TEST(CommandLine, ErrorsNameTheFlag) {
  EXPECT_THAT(Parse({"--max-channels", "0"}), StatusIs(absl::StatusCode::kInvalidArgument, "--max-channels"));
  EXPECT_THAT(Parse({"--max-message-bytes", "2147483648"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "--max-message-bytes"));
  EXPECT_THAT(Parse({"--drain-timeout", "-1"}), StatusIs(absl::StatusCode::kInvalidArgument, "--drain-timeout"));
  EXPECT_THAT(Parse({"--max-shared-memory-bytes", "0"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "--max-shared-memory-bytes"));
  EXPECT_THAT(Parse({"--memory-budget", "1000"}), StatusIs(absl::StatusCode::kInvalidArgument, "--memory-budget"));
  EXPECT_THAT(Parse({"--memory-budget", "-1"}), StatusIs(absl::StatusCode::kInvalidArgument, "--memory-budget"));
  EXPECT_THAT(Parse({"--max-waiting-calls", "0"}), StatusIs(absl::StatusCode::kInvalidArgument, "--max-waiting-calls"));
  EXPECT_THAT(Parse({"--release-memory-after", "-1"}),
              StatusIs(absl::StatusCode::kInvalidArgument, "--release-memory-after"));
  EXPECT_THAT(Parse({"extra"}), StatusIs(absl::StatusCode::kInvalidArgument, "extra"));
}

}  // namespace
}  // namespace normd::app
