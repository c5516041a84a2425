#include "tests/server/store/redis_proxy.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"

namespace normd::tests {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

}  // namespace

RedisProxy::RedisProxy(int redis_port) : redis_port_(redis_port), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(listen(listener_, 16), 0);
  EXPECT_EQ(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size), 0);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { Run(); });
}

RedisProxy::~RedisProxy() {
  stopping_ = true;
  thread_.join();
  close(listener_);
}

void RedisProxy::DropReplies(int count, bool then_refuse) {
  refuse_after_drops_ = then_refuse;
  drops_ = count;
}

void RedisProxy::Run() {
  std::vector<Pair> pairs;
  while (!stopping_) {
    std::vector<pollfd> polls = {{listener_, POLLIN, 0}};
    for (const Pair& pair : pairs) {
      polls.push_back({pair.client, POLLIN, 0});
      polls.push_back({pair.server, POLLIN, 0});
    }
    poll(polls.data(), polls.size(), 20);
    std::vector<Pair> next;
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      bool alive = !refusing_;
      if (alive && polls[2 * i + 1].revents != 0) alive = Pass(&pairs[i], true);
      if (alive && polls[2 * i + 2].revents != 0) alive = Pass(&pairs[i], false);
      if (alive) {
        next.push_back(pairs[i]);
      } else {
        close(pairs[i].client);
        close(pairs[i].server);
      }
    }
    if (polls[0].revents != 0) {
      const int client = accept(listener_, nullptr, nullptr);
      const int server = socket(AF_INET, SOCK_STREAM, 0);
      sockaddr_in address = Loopback(redis_port_);
      if (refusing_ || connect(server, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
        close(client);
        close(server);
      } else {
        next.push_back({client, server});
      }
    }
    pairs = std::move(next);
  }
  for (const Pair& pair : pairs) {
    close(pair.client);
    close(pair.server);
  }
}

bool RedisProxy::Pass(Pair* pair, bool to_server) {
  char buffer[65536];
  const ssize_t got = recv(to_server ? pair->client : pair->server, buffer, sizeof(buffer), 0);
  if (got <= 0) return false;
  // Only changes name the journals in a script, and whoever joins.
  const std::string bytes(buffer, static_cast<std::size_t>(got));
  if (to_server && absl::StrContains(bytes, "EVAL") && absl::StrContains(bytes, "}:journals")) pair->writes = true;
  if (!to_server && pair->writes && drops_ > 0 && absl::StrContains(bytes, "ok")) {
    ++dropped_;
    if (--drops_ == 0 && refuse_after_drops_) refusing_ = true;
    return false;
  }
  return send(to_server ? pair->server : pair->client, buffer, static_cast<std::size_t>(got), MSG_NOSIGNAL) == got;
}

}  // namespace normd::tests
