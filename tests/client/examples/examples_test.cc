// What the examples print, against numbers that are computed here by other means: two passes in long double, and Adam
// as its paper has it.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <regex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/integration/test_server.h"

namespace normd::tests {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

std::string Contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

Outcome RunExample(const std::string& name, const std::string& address) {
  const TempDir directory;
  const std::string out = directory.Path("out");
  const std::string err = directory.Path("err");
  const int status =
      std::system(absl::StrCat("'", NORMD_EXAMPLES, "/", name, "' '", address, "' >'", out, "' 2>'", err, "'").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Contents(out), Contents(err)};
}

// The numbers in the groups of `pattern`, one list for each place where it matches.
std::vector<std::vector<double>> Numbers(const std::string& text, const std::string& pattern) {
  std::string full = pattern;
  for (std::size_t at; (at = full.find('#')) != std::string::npos;) full.replace(at, 1, "(-?[0-9.e+-]*[0-9])");
  const std::regex regex(full);
  std::vector<std::vector<double>> found;
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end; ++it) {
    found.emplace_back();
    for (std::size_t group = 1; group < it->size(); ++group) found.back().push_back(std::stod(it->str(group)));
  }
  return found;
}

double Uniform(std::mt19937* random) { return static_cast<double>((*random)()) / 4294967296.0; }

// Mean and population variance, in two passes.
struct TwoPass {
  explicit TwoPass(const std::vector<float>& values) {
    for (const float value : values) mean += static_cast<long double>(value);
    mean /= static_cast<long double>(values.size());
    for (const float value : values) {
      const long double deviation = static_cast<long double>(value) - mean;
      var += deviation * deviation;
    }
    var /= static_cast<long double>(values.size());
  }
  long double mean = 0;
  long double var = 0;
};

TEST(ExamplesTest, observe_and_normalize) {
  const TestServer server;
  // What four actors saw in 50 steps of 8 environments, by channel.
  const std::array<double, 3> lowest = {-2, 0, 99000};
  const std::array<double, 3> range = {4, 6.25, 2000};
  std::array<std::vector<float>, 3> seen;
  for (uint32_t actor = 0; actor < 4; ++actor) {
    std::mt19937 random(actor);
    for (int i = 0; i < 50 * 8; ++i) {
      for (std::size_t c = 0; c < 3; ++c)
        seen[c].push_back(static_cast<float>(lowest[c] + range[c] * Uniform(&random)));
    }
  }

  // Twice: it begins anew, whatever the run before left.
  for (int run = 0; run < 2; ++run) {
    const Outcome outcome = RunExample("observe_and_normalize", server.address());
    ASSERT_EQ(outcome.code, 0) << outcome.out << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("observations 1600,"));
    const auto channels = Numbers(outcome.out, "channel #: mean #, var #; # becomes #\n");
    ASSERT_EQ(channels.size(), 3u) << outcome.out;
    for (std::size_t c = 0; c < 3; ++c) {
      const TwoPass want(seen[c]);
      EXPECT_NEAR(channels[c][1], static_cast<double>(want.mean), 1e-8 * static_cast<double>(std::abs(want.mean)));
      EXPECT_NEAR(channels[c][2], static_cast<double>(want.var), 1e-8 * static_cast<double>(want.var));
      EXPECT_NEAR(channels[c][4],
                  (channels[c][3] - static_cast<double>(want.mean)) / std::sqrt(static_cast<double>(want.var)), 1e-5);
    }
  }
}

TEST(ExamplesTest, training_loop) {
  const TestServer server;
  const Outcome outcome = RunExample("training_loop", server.address());
  ASSERT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  const auto steps = Numbers(outcome.out, "step #: loss #, gamma\\[0\\] #, beta\\[0\\] #\n");
  ASSERT_EQ(steps.size(), 5u) << outcome.out;

  // The same in float64: batch normalization, mean squared error, Adam (Kingma & Ba 2015, algorithm 1).
  constexpr int kSteps = 200, kBatch = 64, kChannels = 4;
  constexpr double kRate = 0.05, kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;
  struct Parameter {
    double value, m = 0, v = 0;
    void Step(double gradient, int t) {
      m = kBeta1 * m + (1 - kBeta1) * gradient;
      v = kBeta2 * v + (1 - kBeta2) * gradient * gradient;
      value -= kRate * (m / (1 - std::pow(kBeta1, t))) / (std::sqrt(v / (1 - std::pow(kBeta2, t))) + kEps);
    }
  };
  std::vector<Parameter> gamma(kChannels, {.value = 1});
  std::vector<Parameter> beta(kChannels, {.value = 0});
  double running_mean = 0, running_var = 1;  // Of channel 0.
  std::mt19937 random(1);
  std::size_t printed = 0;
  for (int step = 0; step < kSteps; ++step) {
    std::vector<std::vector<float>> x(kChannels), target(kChannels);
    for (int i = 0; i < kBatch; ++i) {
      for (int c = 0; c < kChannels; ++c) {
        const double signal = std::sqrt(12.0) * (Uniform(&random) - 0.5);
        x[c].push_back(static_cast<float>(5 + 3 * signal));
        target[c].push_back(static_cast<float>(2 * signal + 1));
      }
    }
    double loss = 0;
    for (int c = 0; c < kChannels; ++c) {
      const TwoPass batch(x[c]);
      double dgamma = 0, dbeta = 0;
      for (int i = 0; i < kBatch; ++i) {
        const double x_hat =
            static_cast<double>((static_cast<long double>(x[c][i]) - batch.mean) / std::sqrt(batch.var + 1e-5L));
        const double error = gamma[c].value * x_hat + beta[c].value - static_cast<double>(target[c][i]);
        loss += error * error / (kBatch * kChannels);
        dgamma += 2 * error / (kBatch * kChannels) * x_hat;
        dbeta += 2 * error / (kBatch * kChannels);
      }
      gamma[c].Step(dgamma, step + 1);
      beta[c].Step(dbeta, step + 1);
      if (c == 0) {
        running_mean = 0.9 * running_mean + 0.1 * static_cast<double>(batch.mean);
        running_var = 0.9 * running_var + 0.1 * static_cast<double>(batch.var) * kBatch / (kBatch - 1);
      }
    }
    if (step % 50 == 0 || step == kSteps - 1) {
      EXPECT_EQ(steps[printed][0], step);
      EXPECT_NEAR(steps[printed][1], loss, 1e-4 * loss);
      EXPECT_NEAR(steps[printed][2], gamma[0].value, 1e-4);
      EXPECT_NEAR(steps[printed][3], beta[0].value, 1e-4);
      ++printed;
    }
  }
  EXPECT_LT(steps.back()[1], 0.1 * steps.front()[1]);
  const auto answer = Numbers(outcome.out, "version # answers # to 8\n");
  ASSERT_EQ(answer.size(), 1u) << outcome.out;
  // Created as 1; each of 200 steps made two.
  EXPECT_EQ(answer[0][0], 401);
  EXPECT_NEAR(answer[0][1], gamma[0].value * (8 - running_mean) / std::sqrt(running_var + 1e-5) + beta[0].value, 1e-3);
}

TEST(ExamplesTest, async_fan_out) {
  const TestServer server;
  const Outcome outcome = RunExample("async_fan_out", server.address());
  ASSERT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  double sum = 0;
  for (int call = 0; call < 500; ++call) {
    if (call == 123 || call == 321) continue;
    for (int i = 0; i < 32; ++i) {
      const double x = 100 + call % 7 + i;
      sum += i % 2 == 0 ? (x - 100) / std::sqrt(4 + 1e-5) : (x - 200) / std::sqrt(25 + 1e-5);
    }
  }
  const auto summary = Numbers(outcome.out, "# of # calls succeeded, the sum of their results is #\n");
  ASSERT_EQ(summary.size(), 1u) << outcome.out;
  EXPECT_EQ(summary[0][0], 498);
  EXPECT_NEAR(summary[0][2], sum, 1e-5 * std::abs(sum));
  EXPECT_THAT(outcome.out, AllOf(ContainsRegex("call 123: INVALID_ARGUMENT: .*3 channels, want 2"),
                                 ContainsRegex("call 321: DEADLINE_EXCEEDED")));
}

TEST(ExamplesTest, shared_memory) {
  for (const bool served : {true, false}) {
    const TempDir directory;
    app::ServerOptions options = TestOptions();
    options.listen = "";
    options.unix_socket = directory.Path("normd.sock");
    options.shared_memory = served;
    const TestServer server(options);
    const Outcome outcome = RunExample("shared_memory", "unix:" + options.unix_socket);
    ASSERT_EQ(outcome.code, 0) << outcome.out << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr(served ? "travelled in shared memory" : "travelled in messages"));
    EXPECT_EQ(outcome.out.find("warning:") == std::string::npos, served) << outcome.out;
    const auto values = Numbers(outcome.out, "0 becomes # and 999 becomes #\n");
    ASSERT_EQ(values.size(), 1u) << outcome.out;
    EXPECT_NEAR(values[0][0], (0 - 500) / std::sqrt(10000 + 1e-5), 1e-5);
    EXPECT_NEAR(values[0][1], (999 - 500) / std::sqrt(10000 + 1e-5), 1e-5);
  }
}

}  // namespace
}  // namespace normd::tests
