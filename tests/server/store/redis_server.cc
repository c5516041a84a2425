#include "tests/server/store/redis_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

namespace normd::tests {
namespace {

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  std::abort();
}

int FreePort() {
  const int s = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  if (bind(s, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      getsockname(s, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    Die("no free port");
  }
  close(s);
  return ntohs(address.sin_port);
}

// Of flags for a cluster or a replica: failures are noticed soon, and replicas are filled at once.
const std::vector<std::string>& Quick() {
  static const std::vector<std::string> flags = {"--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"};
  return flags;
}

std::vector<std::string> With(std::vector<std::string> flags, const std::vector<std::string>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

}  // namespace

std::string Shell(const std::string& command) {
  FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  std::string output;
  char buffer[4096];
  std::size_t got = 0;
  while ((got = fread(buffer, 1, sizeof(buffer), pipe)) > 0) output.append(buffer, got);
  if (pclose(pipe) != 0) Die(absl::StrCat(command, ": ", output));
  return output;
}

RedisServer::RedisServer(std::vector<std::string> flags, const std::string& sentinel_config) : port_(FreePort()) {
  std::string pattern = (std::filesystem::temp_directory_path() / "normd_redis_XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) Die("no temporary folder");
  folder_ = pattern;
  if (sentinel_config.empty()) {
    flags_ = {"redis-server", "--port", absl::StrCat(port_), "--bind", "127.0.0.1", "--save", "",
              "--dir",        folder_,  "--daemonize",       "no"};
  } else {
    std::ofstream(folder_ + "/sentinel.conf") << "port " << port_ << "\nbind 127.0.0.1\ndir " << folder_ << "\n"
                                              << sentinel_config;
    flags_ = {"redis-server", folder_ + "/sentinel.conf", "--sentinel"};
  }
  flags_.insert(flags_.end(), flags.begin(), flags.end());
  Start();
}

RedisServer::~RedisServer() {
  Kill();
  std::error_code error;
  std::filesystem::remove_all(folder_, error);
}

void RedisServer::Start() {
  std::vector<char*> argv;
  for (std::string& flag : flags_) argv.push_back(flag.data());
  argv.push_back(nullptr);
  const std::string log = folder_ + "/log";
  pid_ = fork();
  if (pid_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(out, 1);
    dup2(out, 2);
    execvp(argv[0], argv.data());
    _exit(127);
  }
  for (int i = 0; i < 500; ++i) {
    if (waitpid(pid_, nullptr, WNOHANG) != 0) break;
    const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool up = connect(s, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(s);
    if (up) return;
    absl::SleepFor(absl::Milliseconds(20));
  }
  Die(absl::StrCat(absl::StrJoin(flags_, " "), " does not start: ", Shell("tail -n 20 " + log)));
}

void RedisServer::Kill() {
  if (pid_ <= 0) return;
  // One that is stopped dies as well.
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void RedisServer::Signal(int signal) const { kill(pid_, signal); }

std::string RedisServer::Cli(const std::string& command) const {
  return Shell(absl::StrCat("redis-cli -p ", port_, " ", command));
}

void RedisServer::Await(const std::string& command, const std::string& text) const {
  std::string output;
  for (int i = 0; i < 600; ++i) {
    output = Cli(command);
    if (absl::StrContains(output, text)) return;
    absl::SleepFor(absl::Milliseconds(50));
  }
  Die(absl::StrCat("redis-cli ", command, " never says ", text, " but ", output));
}

std::unique_ptr<RedisSet> RedisSet::Standalone(std::vector<std::string> flags) {
  auto set = std::make_unique<RedisSet>();
  set->servers.push_back(std::make_unique<RedisServer>(std::move(flags)));
  set->url = absl::StrCat("redis://127.0.0.1:", set->servers[0]->port());
  set->options = "&lease-ms=1000";
  return set;
}

std::unique_ptr<RedisSet> RedisSet::Tls() {
  auto set = std::make_unique<RedisSet>();
  // Its folder holds the keys.
  set->servers.push_back(std::make_unique<RedisServer>());
  const std::string folder = set->servers[0]->folder();
  Shell(absl::StrCat(
      "cd ", folder,
      " && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca",
      " -keyout ca.key -out ca.pem && openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "
      "/CN=redis",
      " -keyout redis.key -out redis.csr && echo 'subjectAltName=IP:127.0.0.1,DNS:localhost' > san &&",
      " openssl x509 -req -in redis.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out redis.pem"));
  const int port = FreePort();
  set->servers.push_back(std::make_unique<RedisServer>(
      std::vector<std::string>{"--tls-port", absl::StrCat(port), "--tls-cert-file", folder + "/redis.pem",
                               "--tls-key-file", folder + "/redis.key", "--tls-ca-cert-file", folder + "/ca.pem",
                               "--user", "trainer", "on", ">p@ss/word", "~*", "&*", "+@all"}));
  set->url = absl::StrCat("rediss://trainer:p%40ss%2Fword@127.0.0.1:", port);
  set->options =
      absl::StrCat("&lease-ms=1000&ca=", folder, "/ca.pem&cert=", folder, "/redis.pem&key=", folder, "/redis.key");
  return set;
}

std::unique_ptr<RedisSet> RedisSet::Sentinel() {
  auto set = std::make_unique<RedisSet>();
  set->servers.push_back(std::make_unique<RedisServer>(Quick()));
  const int master = set->servers[0]->port();
  set->servers.push_back(
      std::make_unique<RedisServer>(With(Quick(), {"--replicaof", absl::StrCat("127.0.0.1 ", master)})));
  set->servers[1]->Await("info replication", "master_link_status:up");
  std::vector<std::string> addresses;
  for (int i = 0; i < 3; ++i) {
    set->sentinels.push_back(std::make_unique<RedisServer>(
        std::vector<std::string>{},
        absl::StrCat("sentinel monitor main 127.0.0.1 ", master,
                     " 2\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n")));
    addresses.push_back(absl::StrCat("127.0.0.1:", set->sentinels.back()->port()));
  }
  for (const auto& sentinel : set->sentinels) {
    sentinel->Await("sentinel master main", "num-other-sentinels\n2");
    sentinel->Await("sentinel master main", "num-slaves\n1");
  }
  set->url = absl::StrCat("redis+sentinel://", absl::StrJoin(addresses, ","), "/main");
  set->options = "&lease-ms=1000";
  return set;
}

std::unique_ptr<RedisSet> RedisSet::Cluster() {
  auto set = std::make_unique<RedisSet>();
  std::vector<std::string> addresses;
  for (int i = 0; i < 6; ++i) {
    set->servers.push_back(
        std::make_unique<RedisServer>(With(Quick(), {"--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
                                                     "--cluster-port", absl::StrCat(FreePort())})));
    addresses.push_back(absl::StrCat("127.0.0.1:", set->servers.back()->port()));
  }
  Shell(absl::StrCat("redis-cli --cluster create ", absl::StrJoin(addresses, " "),
                     " --cluster-replicas 1 --cluster-yes"));
  for (const auto& server : set->servers) {
    server->Await("cluster info", "cluster_state:ok");
    server->Await("info replication",
                  absl::StrContains(server->Cli("role"), "master") ? "connected_slaves:1" : "master_link_status:up");
  }
  set->url = absl::StrCat("redis+cluster://", addresses[0], ",", addresses[4]);
  set->options = "&lease-ms=1000";
  return set;
}

}  // namespace normd::tests
