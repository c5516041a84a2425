// `normctl top` and `normctl log-level`: what they compute, and the program in a terminal of its own.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "client/cli/terminal.h"
#include "client/cli/top_frame.h"
#include "tests/client/cli/normctl_fixture.h"

namespace normd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using tests::NormctlTest;
using tests::Outcome;

TEST(TopQuantile, GoesStraightThroughABucket) {
  const DurationDistribution now{.bounds_seconds = {1, 2, 4}, .counts = {10, 10, 0, 5}, .sum_seconds = 0};
  EXPECT_DOUBLE_EQ(cli::Quantile({}, now, 0.2), 0.5);
  EXPECT_DOUBLE_EQ(cli::Quantile({}, now, 0.4), 1);
  EXPECT_DOUBLE_EQ(cli::Quantile({}, now, 0.6), 1.5);
  EXPECT_DOUBLE_EQ(cli::Quantile({}, now, 0.99), 4) << "nothing is known of what is longer";
  const DurationDistribution before{.bounds_seconds = {1, 2, 4}, .counts = {10, 0, 0, 5}, .sum_seconds = 0};
  EXPECT_DOUBLE_EQ(cli::Quantile(before, now, 0.5), 1.5) << "of the ten that came";
  EXPECT_DOUBLE_EQ(cli::Quantile(now, now, 0.5), 0);
}

TEST(TopRate, IsOfTheTimeBetween) {
  ServerStatistics before;
  before.uptime_seconds = 10;
  before.process.start_time_seconds = 1000;
  before.methods = {{.method = "Infer", .codes = {{0, 5}, {3, 1}}, .duration = {}, .request_bytes = 100}};
  before.layers.resize(1);
  before.layers[0].name = "a";
  before.layers[0].folds = 7;
  ServerStatistics now = before;
  now.uptime_seconds = 12;
  now.methods[0].codes = {{0, 9}, {3, 3}};
  now.methods[0].request_bytes = 300;
  now.layers[0].folds = 17;
  cli::ServerRate rate = cli::RateBetween(before, now);
  EXPECT_DOUBLE_EQ(rate.seconds, 2);
  EXPECT_DOUBLE_EQ(rate.methods.at(0).calls_per_second, 3);
  EXPECT_DOUBLE_EQ(rate.methods.at(0).errors_per_second, 1);
  EXPECT_DOUBLE_EQ(rate.methods.at(0).request_bytes_per_second, 100);
  EXPECT_DOUBLE_EQ(rate.layers.at(0).folds_per_second, 5);
  // Another process: all it counted is of its own life.
  now.process.start_time_seconds = 2000;
  now.uptime_seconds = 1;
  rate = cli::RateBetween(before, now);
  EXPECT_DOUBLE_EQ(rate.seconds, 1);
  EXPECT_DOUBLE_EQ(rate.methods.at(0).calls_per_second, 12);
}

TEST(TerminalText, IsCutToTheScreen) {
  EXPECT_EQ(cli::Cropped("abcdef\ngh\nij\n", 2, 4), "abcd\ngh\n");
  EXPECT_EQ(cli::Cropped("abc\n", 24, 80), "abc\n");
}

class NormctlTopTest : public NormctlTest {
 protected:
  void Work() {
    server_.Create("net.bn1", 2);
    WriteFloats("x.npy", {4, 2}, {1, 2, 3, 4, 5, 6, 7, 9});
    for (int i = 0; i < 3; ++i) ASSERT_EQ(Run("train net.bn1 \"$D\"/x.npy \"$D\"/y.npy").code, 0);
  }
};

TEST_F(NormctlTopTest, OnceShowsWhatTheServerDid) {
  Work();
  const Outcome once = Run("top --once --interval 50ms");
  EXPECT_EQ(once.code, 0) << once.err;
  EXPECT_THAT(once.out, AllOf(HasSubstr("METHOD"), HasSubstr("TrainStep"), HasSubstr("LAYER"), HasSubstr("net.bn1"),
                              Not(HasSubstr("\033"))));
  const nlohmann::json top = RunJson("top --once --interval 50ms");
  EXPECT_EQ(top["folds"], 3);
  EXPECT_EQ(top["layers"][0]["name"], "net.bn1");
  EXPECT_EQ(top["layers"][0]["folds"], 3);
  EXPECT_EQ(top["layers"][0]["mean_drift"].is_number(), true);
  EXPECT_GE(top["rates"]["seconds"].get<double>(), 0.05);
  for (const nlohmann::json& method : top["methods"]) {
    if (method["method"] == "TrainStep") {
      EXPECT_EQ(method["codes"], nlohmann::json({{"OK", 3}}));
    }
  }
}

TEST_F(NormctlTopTest, SaysWhatItCannotDo) {
  EXPECT_THAT(Run("top </dev/null"),
              AllOf(::testing::Field(&Outcome::code, 1), ::testing::Field(&Outcome::err, HasSubstr("try top --once"))));
  EXPECT_THAT(Run("top --output json"),
              AllOf(::testing::Field(&Outcome::code, 2), ::testing::Field(&Outcome::err, HasSubstr("--once"))));
  EXPECT_EQ(Run("top --once --interval 0s").code, 2);
}

TEST_F(NormctlTopTest, LogLevelIsShownAndChanged) {
  EXPECT_EQ(Run("log-level").out, "debug\n");
  EXPECT_EQ(Run("log-level warn").out, "warn\n");
  EXPECT_EQ(RunJson("log-level"), nlohmann::json({{"level", "warn"}}));
  EXPECT_EQ(Run("log-level loud").code, 2);
  EXPECT_EQ(Run("log-level").out, "warn\n");
}

// normctl top in a pseudo-terminal.
class LiveTop {
 public:
  explicit LiveTop(const std::string& server) {
    const winsize size = {.ws_row = 40, .ws_col = 150, .ws_xpixel = 0, .ws_ypixel = 0};
    pid_ = forkpty(&terminal_, nullptr, nullptr, &size);
    if (pid_ == 0) {
      setenv("TERM", "xterm", 1);
      execl(NORMCTL_BINARY, "normctl", "top", "--interval", "50ms", "--server", server.c_str(), nullptr);
      _exit(127);
    }
  }
  ~LiveTop() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(terminal_);
  }
  LiveTop(const LiveTop&) = delete;
  LiveTop& operator=(const LiveTop&) = delete;

  // Reads until `text` comes; what came so far.
  std::string ReadUntil(const std::string& text) {
    while (!absl::StrContains(seen_, text)) {
      pollfd in = {.fd = terminal_, .events = POLLIN, .revents = 0};
      char buffer[4096];
      if (poll(&in, 1, 30'000) <= 0) break;
      const ssize_t size = read(terminal_, buffer, sizeof(buffer));
      if (size <= 0) break;
      seen_.append(buffer, static_cast<std::size_t>(size));
    }
    EXPECT_THAT(seen_, HasSubstr(text));
    return std::exchange(seen_, "");
  }
  void Type(const std::string& keys) {
    ASSERT_EQ(write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  bool Echoes() const {
    termios settings = {};
    tcgetattr(terminal_, &settings);
    return (settings.c_lflag & (ICANON | ECHO)) == (ICANON | ECHO);
  }
  int Wait() {
    int status = -1;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  int terminal_ = -1;
  pid_t pid_ = -1;
  std::string seen_;
};

TEST_F(NormctlTopTest, GoesOnUntilAKeyAndLeavesTheTerminalAsItWas) {
  Work();
  for (const char* end : {"q", "\003"}) {
    LiveTop top(server_.address());
    EXPECT_THAT(top.ReadUntil("net.bn1"), HasSubstr("\033[?1049h"));
    EXPECT_FALSE(top.Echoes());
    // The next picture has what has happened since.
    ASSERT_EQ(Run("infer net.bn1 \"$D\"/x.npy \"$D\"/y.npy").code, 0);
    top.ReadUntil("Infer");
    top.Type("x");
    top.ReadUntil("METHOD");
    top.Type(end);
    top.ReadUntil("\033[?25h\033[?1049l");
    EXPECT_EQ(top.Wait(), 0);
    EXPECT_TRUE(top.Echoes());
  }
}

}  // namespace
}  // namespace normd
