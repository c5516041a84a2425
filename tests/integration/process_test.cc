// The program normd as scripts and containers meet it: what it prints, how it ends, and what its settings do.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "normd/v1/layer_service.grpc.pb.h"
#include "normd/v1/normalization_service.grpc.pb.h"

namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::Gt;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

class ProcessTest : public ::testing::Test {
 protected:
  ProcessTest() {
    std::string pattern = (std::filesystem::temp_directory_path() / "normd-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) != nullptr) dir_ = pattern;
  }
  ~ProcessTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(dir_, ignored);
  }
  std::string Path(const std::string& name) const { return dir_ + "/" + name; }
  std::string WriteConfig(const std::string& text) const {
    std::ofstream(Path("config.toml")) << text;
    return Path("config.toml");
  }

  std::string dir_;
};

// A running normd; killed at the end if it still runs. stderr goes into a file.
class Normd {
 public:
  explicit Normd(std::vector<std::string> arguments) {
    static int count = 0;
    stderr_path_ = (std::filesystem::temp_directory_path() /
                    ("normd-stderr-" + std::to_string(getpid()) + "-" + std::to_string(++count)))
                       .string();
    int pipe_fds[2];
    EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, stderr_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    arguments.insert(arguments.begin(), {NORMD_BINARY, "--store", "memory"});
    std::vector<char*> argv;
    argv.reserve(arguments.size() + 1);
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(posix_spawn(&pid_, NORMD_BINARY, &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_fds[1]);
    stdout_ = fdopen(pipe_fds[0], "r");
  }
  ~Normd() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    fclose(stdout_);
    std::filesystem::remove(stderr_path_);
  }
  Normd(const Normd&) = delete;
  Normd& operator=(const Normd&) = delete;

  // The next line on stdout without its end; empty when there is none.
  std::string ReadLine() {
    char* line = nullptr;
    size_t capacity = 0;
    const ssize_t length = getline(&line, &capacity, stdout_);
    std::string result = length > 0 ? std::string(line, static_cast<size_t>(length)) : "";
    free(line);
    if (!result.empty() && result.back() == '\n') result.pop_back();
    return result;
  }
  std::string ReadAll() {
    std::string all;
    for (std::string line = ReadLine(); !line.empty(); line = ReadLine()) all += line + "\n";
    return all;
  }
  // Address of the line "normd listening on ADDRESS".
  std::string ReadAddress() {
    const std::string start = "normd listening on ";
    const std::string line = ReadLine();
    EXPECT_THAT(line, StartsWith(start)) << ReadFile(stderr_path_);
    return line.size() > start.size() ? line.substr(start.size()) : "";
  }
  void Signal(int number) { kill(pid_, number); }
  // Exit status once it has ended by itself; -number if a signal killed it.
  int Wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  // Of the running process.
  std::string Environment() const { return ReadFile("/proc/" + std::to_string(pid_) + "/environ"); }
  // Of the threads of the running process, one each.
  std::vector<int> SchedulingPolicies() const {
    std::vector<int> policies;
    for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(pid_) + "/task")) {
      const int policy = sched_getscheduler(std::stoi(thread.path().filename()));
      if (policy >= 0) policies.push_back(policy);  // Else it has ended.
    }
    return policies;
  }
  // Of the running process, as /proc says: "VmRSS" is what is resident, "VmHWM" the most that ever was.
  int64_t MemoryBytes(const std::string& name) const {
    std::istringstream status(ReadFile("/proc/" + std::to_string(pid_) + "/status"));
    for (std::string line; std::getline(status, line);) {
      if (line.rfind(name + ":", 0) == 0) return std::stoll(line.substr(name.size() + 1)) * 1024;
    }
    ADD_FAILURE() << "no " << name;
    return 0;
  }
  std::string Stderr() const { return ReadFile(stderr_path_); }

 private:
  pid_t pid_ = -1;
  FILE* stdout_ = nullptr;
  std::string stderr_path_;
};

struct Result {
  int exit_status;
  std::string out;
  std::string err;
};

Result RunToEnd(const std::vector<std::string>& arguments) {
  Normd process(arguments);
  Result result;
  result.out = process.ReadAll();
  result.exit_status = process.Wait();
  result.err = process.Stderr();
  return result;
}

int CountLines(const std::string& text) { return static_cast<int>(std::count(text.begin(), text.end(), '\n')); }

TEST_F(ProcessTest, SaysWhereItListensAndEndsOnSigterm) {
  for (const int number : {SIGTERM, SIGINT}) {
    Normd normd({"--listen", "127.0.0.1:0", "--unix-socket", Path("normd.sock")});
    EXPECT_THAT(normd.ReadAddress(), MatchesRegex("127\\.0\\.0\\.1:[1-9][0-9]*"));
    EXPECT_EQ(normd.ReadAddress(), "unix:" + Path("normd.sock"));
    normd.Signal(number);
    EXPECT_EQ(normd.ReadLine(), "") << "nothing more on stdout";
    EXPECT_EQ(normd.Wait(), 0);
    EXPECT_THAT(normd.Stderr(), HasSubstr("message=stopped"));
    EXPECT_FALSE(std::filesystem::exists(Path("normd.sock")));
  }
}

// libgomp's own default spins for up to 13 ms after every large tensor.
TEST_F(ProcessTest, IdleComputeThreadsSpinBriefly) {
  unsetenv("GOMP_SPINCOUNT");
  unsetenv("OMP_WAIT_POLICY");
  Normd normd({"--listen", "127.0.0.1:0"});
  ASSERT_FALSE(normd.ReadAddress().empty());
  EXPECT_THAT(normd.Environment(), HasSubstr("GOMP_SPINCOUNT=2000"));

  setenv("OMP_WAIT_POLICY", "passive", 1);
  Normd chosen({"--listen", "127.0.0.1:0"});
  ASSERT_FALSE(chosen.ReadAddress().empty());
  EXPECT_THAT(chosen.Environment(), Not(HasSubstr("GOMP_SPINCOUNT")));
  unsetenv("OMP_WAIT_POLICY");
}

TEST_F(ProcessTest, BatchSchedulingIsForAllThreads) {
  const int own = sched_getscheduler(0);
  Normd usual({"--listen", "127.0.0.1:0"});
  ASSERT_FALSE(usual.ReadAddress().empty());
  EXPECT_THAT(usual.SchedulingPolicies(), AllOf(SizeIs(Gt(3u)), Each(own)));

  Normd batch({"--listen", "127.0.0.1:0", "--batch-scheduling"});
  ASSERT_FALSE(batch.ReadAddress().empty());
  EXPECT_THAT(batch.SchedulingPolicies(), AllOf(SizeIs(Gt(3u)), Each(SCHED_BATCH)));
}

TEST_F(ProcessTest, ASecondSignalEndsItAtOnce) {
  Normd normd({"--listen", "", "--unix-socket", Path("normd.sock"), "--drain-timeout", "86400"});
  EXPECT_EQ(normd.ReadAddress(), "unix:" + Path("normd.sock"));
  // A call that never gets anywhere holds the shutdown up: the HTTP/2 preface, empty SETTINGS, and the HEADERS of an
  // Infer without a message (RFC 9113; HPACK literals without indexing).
  std::string bytes = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  bytes += std::string("\0\0\0\4\0\0\0\0\0", 9);
  std::string headers = "\x83\x86";  // :method POST, :scheme http
  const auto add = [&headers](const std::string& name, const std::string& value) {
    headers += '\0';
    headers += static_cast<char>(name.size());
    headers += name;
    headers += static_cast<char>(value.size());
    headers += value;
  };
  add(":path", "/normd.v1.NormalizationService/Infer");
  add(":authority", "localhost");
  add("te", "trailers");
  add("content-type", "application/grpc");
  bytes += std::string("\0\0", 2) + static_cast<char>(headers.size()) + std::string("\1\4\0\0\0\1", 6) + headers;
  // A ping after it: its answer says that the server has read what stood before.
  bytes += std::string("\0\0\x8\6\0\0\0\0\0", 9) + "12345678";
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  Path("normd.sock").copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(write(fd, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  std::string got;
  char chunk[512];
  while (got.find("12345678") == std::string::npos) {
    const ssize_t length = read(fd, chunk, sizeof(chunk));
    ASSERT_GT(length, 0) << "the server has closed the connection";
    got.append(chunk, static_cast<size_t>(length));
  }

  normd.Signal(SIGTERM);
  // GOAWAY (frame type 7) or the end: the first signal has been taken.
  while (normd.Stderr().find("message=stopping") == std::string::npos) usleep(1000);
  normd.Signal(SIGTERM);
  EXPECT_EQ(normd.Wait(), 128 + SIGTERM);
  close(fd);
}

#ifndef NORMD_SANITIZED
// The sanitizers' allocators keep what is freed.
TEST_F(ProcessTest, ResidentMemoryFallsAfterABurst) {
  namespace v1 = normd::v1;
  // glibc returns the free end of its first arena only; normd has one where there are two cores.
  if (std::thread::hardware_concurrency() > 3) setenv("MALLOC_ARENA_MAX", "1", 1);
  Normd normd({"--listen", "", "--unix-socket", Path("normd.sock"), "--release-memory-after", "0.2"});
  unsetenv("MALLOC_ARENA_MAX");
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  const auto channel = grpc::CreateCustomChannel(normd.ReadAddress(), grpc::InsecureChannelCredentials(), arguments);
  {
    grpc::ClientContext context;
    v1::CreateLayerRequest request;
    request.set_name("bn");
    request.mutable_config()->set_num_channels(2);
    v1::CreateLayerResponse response;
    ASSERT_TRUE(v1::LayerService::NewStub(channel)->CreateLayer(&context, request, &response).ok());
  }
  const auto stub = v1::NormalizationService::NewStub(channel);
  v1::InferRequest request;
  request.set_layer("bn");
  request.mutable_x()->set_dtype(v1::DATA_TYPE_FLOAT32);
  const auto infer = [&](int64_t bytes) {
    v1::InferRequest sized = request;
    sized.mutable_x()->add_shape(bytes / 8);
    sized.mutable_x()->add_shape(2);
    sized.mutable_x()->set_data(std::string(static_cast<size_t>(bytes), '\0'));
    grpc::ClientContext context;
    context.set_wait_for_ready(true);
    v1::InferResponse response;
    EXPECT_EQ(stub->Infer(&context, sized, &response).error_message(), "");
  };
  constexpr int64_t kMB = 1'000'000;
  infer(800);
  const int64_t before = normd.MemoryBytes("VmRSS");
  const auto burst = [&] {
    std::vector<std::thread> clients;
    for (int i = 0; i < 20; ++i) clients.emplace_back([&] { infer(16 * kMB); });
    for (std::thread& client : clients) client.join();
  };
  burst();
  const int64_t peak = normd.MemoryBytes("VmHWM");
  ASSERT_GT(peak, before + 100 * kMB) << "was there a burst?";
  const int64_t plateau = before + 24 * kMB;
  const auto await_plateau = [&] {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (normd.MemoryBytes("VmRSS") > plateau) {
      ASSERT_LT(std::chrono::steady_clock::now(), give_up)
          << normd.MemoryBytes("VmRSS") << " are resident, before the burst: " << before << ", most: " << peak;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  };
  await_plateau();
  burst();
  await_plateau();
  infer(16 * kMB);
}
#endif

TEST_F(ProcessTest, ATakenPortIsAnErrorOfOneLine) {
  Normd first({"--listen", "127.0.0.1:0"});
  const std::string address = first.ReadAddress();
  const Result second = RunToEnd({"--listen", address});
  EXPECT_EQ(second.exit_status, 1);
  EXPECT_THAT(second.out, IsEmpty());
  EXPECT_THAT(second.err, HasSubstr("cannot listen on " + address + ": Address already in use"));
  EXPECT_EQ(CountLines(second.err), 1) << second.err;
  EXPECT_EQ(RunToEnd({"--healthcheck", address}).exit_status, 0) << "the first goes on";
}

TEST_F(ProcessTest, Healthcheck) {
  Normd normd({"--listen", "127.0.0.1:0", "--unix-socket", Path("normd.sock")});
  const std::string address = normd.ReadAddress();
  normd.ReadAddress();
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"--healthcheck", address},
           {"--healthcheck", "unix:" + Path("normd.sock")},
           {"--healthcheck", "--listen", address},
           {"--listen", "", "--unix-socket", Path("normd.sock"), "--healthcheck"},
           {"--config", WriteConfig("listen = \"" + address + "\"\n"), "--healthcheck"}}) {
    const Result result = RunToEnd(arguments);
    EXPECT_EQ(result.exit_status, 0) << result.err;
    EXPECT_THAT(result.out, AllOf(StartsWith("normd: "), HasSubstr(": SERVING\n")));
  }
  normd.Signal(SIGTERM);
  EXPECT_EQ(normd.Wait(), 0);
  const Result result = RunToEnd({"--healthcheck", address});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("not healthy: " + address), HasSubstr("Connection refused")));
  EXPECT_EQ(CountLines(result.err), 1) << result.err;
}

TEST_F(ProcessTest, FlagsWinOverTheConfigFile) {
  const std::string config = WriteConfig("listen = \"\"\nunix-socket = \"" + Path("file.sock") +
                                         "\"\nlog-format = \"json\"\nlog-level = \"debug\"\n");
  {
    Normd normd({"--config", config});
    EXPECT_EQ(normd.ReadAddress(), "unix:" + Path("file.sock"));
  }
  Normd normd({"--config", config, "--unix-socket", Path("flag.sock"), "--log-level", "info"});
  EXPECT_EQ(normd.ReadAddress(), "unix:" + Path("flag.sock"));
  normd.Signal(SIGTERM);
  EXPECT_EQ(normd.Wait(), 0);
  // What the flags do not say, the file does.
  std::istringstream log(normd.Stderr());
  int lines = 0;
  for (std::string line; std::getline(log, line); ++lines) {
    const nlohmann::json entry = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(entry.is_object()) << line;
    EXPECT_NE(entry["level"], "debug");
    EXPECT_TRUE(entry.contains("time") && entry.contains("message")) << line;
  }
  EXPECT_GE(lines, 3);
}

TEST_F(ProcessTest, BadSettingsAreNamedInOneLine) {
  struct {
    const char* name;
    std::vector<std::string> arguments;
    const char* message;
  } const cases[] = {
      {"unknown flag", {"--listne", "x"}, "--listne"},
      {"not an address", {"--listen", "nowhere"}, "--listen: 'nowhere' is not HOST:PORT"},
      {"not a level", {"--log-level", "loud"}, "--log-level: loud not in"},
      {"not a number", {"--max-layers", "many"}, "--max-layers"},
      {"out of range", {"--max-layers", "0"}, "--max-layers: Value 0 not in range 1 to"},
      {"missing file", {"--config", Path("missing.toml")}, "missing.toml"},
      {"value in file", {"--config", WriteConfig("threads = -1\n")}, "--threads: Value -1 not in range"},
      {"nothing to do", {"--listen", ""}, "nothing to listen on"},
      {"every address", {"--listen", "0.0.0.0:0"}, "listen: 0.0.0.0:0 is not loopback"},
      {"every IPv6 address", {"--listen", "[::]:0"}, "listen: [::]:0 is not loopback"},
      {"one address", {"--listen", "192.0.2.1:0"}, "or --insecure"},
      {"a name", {"--listen", "127.example.invalid:0"}, "is not loopback"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    const Result result = RunToEnd(c.arguments);
    EXPECT_EQ(result.exit_status, 1);
    EXPECT_THAT(result.out, IsEmpty());
    EXPECT_THAT(result.err, HasSubstr(c.message));
    EXPECT_EQ(CountLines(result.err), 1) << result.err;
  }
  const Result result = RunToEnd({"--config", WriteConfig("max-layer = 3\n")});
  EXPECT_EQ(result.exit_status, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("config.toml"), HasSubstr("max-layer")));
}

TEST_F(ProcessTest, CheckConfigSaysOkOrEveryProblemAndStartsNothing) {
  const std::string socket = Path("normd.sock");
  Normd good({"--check-config", "--unix-socket", socket, "--threads", "3"});
  EXPECT_THAT(good.ReadAll(), AllOf(StartsWith("# ok\n"), HasSubstr("\nthreads = 3\n"), HasSubstr(socket)));
  EXPECT_EQ(good.Wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(socket));

  Normd bad({"--check-config", "--config", WriteConfig("threads = -1\nthread = 1\n")});
  EXPECT_THAT(bad.ReadAll(), IsEmpty());
  EXPECT_EQ(bad.Wait(), 1);
  EXPECT_THAT(bad.Stderr(), MatchesRegex("normd: .*--threads.*\nnormd: .*'thread'\n"));

  for (const auto& [listen, problem] :
       {std::pair("", "nothing to listen on"), std::pair("0.0.0.0:0", "listen: 0.0.0.0:0 is not")}) {
    Normd refused({"--check-config", "--listen", listen});
    EXPECT_THAT(refused.ReadAll(), IsEmpty());
    EXPECT_EQ(refused.Wait(), 1);
    EXPECT_THAT(refused.Stderr(), MatchesRegex(absl::StrCat("normd: ", problem, ".*\n")));
  }
}

TEST_F(ProcessTest, BeyondLoopbackOnlyIfToldSo) {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--listen", "0.0.0.0:0", "--insecure"},
                                                    {"--listen", "127.0.0.2:0"},
                                                    {"--listen", "localhost:0"}}) {
    Normd normd(arguments);
    std::string address = normd.ReadAddress();
    EXPECT_THAT(address, Not(IsEmpty()));
    // The name is not looked up: the resolver of gRPC leaks a few bytes then.
    address = std::regex_replace(address, std::regex("localhost"), "127.0.0.1");
    EXPECT_EQ(RunToEnd({"--healthcheck", address}).exit_status, 0) << address;
  }
}

TEST_F(ProcessTest, VersionAndHelp) {
  const Result version = RunToEnd({"--version"});
  EXPECT_EQ(version.exit_status, 0);
  EXPECT_EQ(version.out, "normd " NORMD_VERSION "\n");
  const Result help = RunToEnd({"--help"});
  EXPECT_EQ(help.exit_status, 0);
  EXPECT_THAT(help.out, HasSubstr("normd"));
}

}  // namespace
