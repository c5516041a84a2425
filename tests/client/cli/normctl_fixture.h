#ifndef NORMD_TESTS_CLIENT_CLI_NORMCTL_FIXTURE_H_
#define NORMD_TESTS_CLIENT_CLI_NORMCTL_FIXTURE_H_

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cli/npy.h"
#include "tests/integration/test_server.h"

namespace normd::tests {

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

inline std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Runs the built normctl against a real server, as a shell would.
class NormctlTest : public ::testing::Test {
 protected:
  // `arguments` are the shell's: quotes, pipes and redirections work; $D is a directory of the test's own.
  Outcome Run(const std::string& arguments) { return Shell(absl::StrCat(NORMCTL_BINARY, " ", arguments)); }

  Outcome Shell(const std::string& command) {
    const std::string out = directory_.Path("out");
    const std::string err = directory_.Path("err");
    const std::string script = absl::StrCat("NORMD_SERVER='", server_.address(), "'; D='", directory_.Path(""),
                                            "'; export NORMD_SERVER D; { ", command, "\n} >'", out, "' 2>'", err, "'");
    const int status = std::system(script.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, Contents(out), Contents(err)};
  }

  // Runs it with --output json and returns what it printed; fails the test if it does not work.
  nlohmann::json RunJson(const std::string& arguments) {
    const Outcome outcome = Run(arguments + " --output json");
    EXPECT_EQ(outcome.code, 0) << arguments << "\n" << outcome.err;
    nlohmann::json parsed = nlohmann::json::parse(outcome.out, nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(parsed.is_discarded()) << outcome.out;
    return parsed;
  }

  void WriteFloats(const std::string& name, const std::vector<int64_t>& shape, const std::vector<float>& values) {
    const Tensor tensor(DType::kFloat32, shape, Layout::kChannelsFirst,
                        std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)));
    ASSERT_TRUE(cli::WriteNpy(tensor, directory_.Path(name)).ok());
  }

  static app::ServerOptions ServerOptions() {
    app::ServerOptions options = TestOptions();
    options.shared_memory = true;
    return options;
  }

  TestServer server_{ServerOptions()};
  TempDir directory_;
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_CLIENT_CLI_NORMCTL_FIXTURE_H_
