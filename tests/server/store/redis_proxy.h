#ifndef NORMD_TESTS_SERVER_STORE_REDIS_PROXY_H_
#define NORMD_TESTS_SERVER_STORE_REDIS_PROXY_H_

#include <atomic>
#include <thread>

namespace normd::tests {

// Stands on a free port of the loopback address before a Redis on another one, and passes bytes on until it is told not
// to. Thread-safe.
class RedisProxy {
 public:
  explicit RedisProxy(int redis_port);
  // Ends all connections.
  ~RedisProxy();
  RedisProxy(const RedisProxy&) = delete;
  RedisProxy& operator=(const RedisProxy&) = delete;

  int port() const { return port_; }
  // Ends so many connections when the answer to a change would pass, and with `then_refuse` all others after that.
  void DropReplies(int count, bool then_refuse = false);
  void RefuseAll(bool refuse) { refusing_ = refuse; }
  int dropped() const { return dropped_; }

 private:
  struct Pair {
    int client;
    int server;
    // A change is on its way.
    bool writes = false;
  };

  void Run();
  bool Pass(Pair* pair, bool to_server);

  const int redis_port_;
  const int listener_;
  int port_ = 0;
  std::atomic<int> drops_ = 0;
  std::atomic<int> dropped_ = 0;
  std::atomic<bool> refusing_ = false;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> refuse_after_drops_ = false;
  std::thread thread_;
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_SERVER_STORE_REDIS_PROXY_H_
