#ifndef NORMD_TESTS_SERVER_STORE_REDIS_SERVER_H_
#define NORMD_TESTS_SERVER_STORE_REDIS_SERVER_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

namespace normd::tests {

// A redis-server of the system in a folder of its own, on a free port of the loopback address. What goes wrong ends the
// test program with a message: there is nothing to test then.
class RedisServer {
 public:
  // More flags, as on its command line. `sentinel_config`: it is a sentinel, with these lines in its configuration.
  explicit RedisServer(std::vector<std::string> flags = {}, const std::string& sentinel_config = "");
  // Kills it.
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  int port() const { return port_; }
  const std::string& folder() const { return folder_; }
  // kill -9.
  void Kill();
  void Signal(int signal) const;
  // Starts it again, with its port and its folder.
  void Start();
  // What redis-cli prints for a command.
  std::string Cli(const std::string& command) const;
  // Waits until the output of a command contains `text`.
  void Await(const std::string& command, const std::string& text) const;

 private:
  std::vector<std::string> flags_;
  std::string folder_;
  int port_ = 0;
  pid_t pid_ = -1;
};

// Some servers that make up one Redis.
struct RedisSet {
  // Masters, then their replicas.
  std::vector<std::unique_ptr<RedisServer>> servers;
  std::vector<std::unique_ptr<RedisServer>> sentinels;
  // Without options; "?prefix=..." may follow.
  std::string url;
  // Options that it needs, "&ca=..."
  std::string options;

  static std::unique_ptr<RedisSet> Standalone(std::vector<std::string> flags = {});
  // A user's password and TLS, with a CA of its own at servers[0]->folder()/ca.pem.
  static std::unique_ptr<RedisSet> Tls();
  // A master, a replica, three sentinels.
  static std::unique_ptr<RedisSet> Sentinel();
  // Three masters with a replica each.
  static std::unique_ptr<RedisSet> Cluster();

  std::string Location(const std::string& prefix, const std::string& more = "") const {
    return url + "?prefix=" + prefix + options + more;
  }
};

// The output of a command of the shell; a failure ends the program.
std::string Shell(const std::string& command);

}  // namespace normd::tests

#endif  // NORMD_TESTS_SERVER_STORE_REDIS_SERVER_H_
