#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "normd/client.h"
#include "tests/integration/test_server.h"
#include "tests/status_matchers.h"

namespace normd {
namespace {

using ::testing::Each;
using ::testing::Ge;
using ::testing::SizeIs;
using tests::IsOk;

// Sizes of the send buffers of this process's connected Unix stream sockets, but for those in `except`.
std::vector<int> SendBuffers(const std::set<int>& except, std::set<int>* found) {
  std::vector<int> sizes;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::stoi(entry.path().filename());
    sockaddr_storage peer = {};
    socklen_t peer_size = sizeof(peer);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0 || peer.ss_family != AF_UNIX) continue;
    if (found != nullptr) found->insert(fd);
    if (except.contains(fd)) continue;
    int size = 0;
    socklen_t length = sizeof(size);
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length) == 0) sizes.push_back(size);
  }
  return sizes;
}

TEST(UnixSocketTest, BothEndsSendFromLargeBuffers) {
  std::set<int> before;
  SendBuffers({}, &before);
  const tests::TempDir dir;
  app::ServerOptions options = tests::TestOptions();
  options.listen = "";
  options.unix_socket = dir.Path("normd.sock");
  const tests::TestServer server(options);
  const std::unique_ptr<Client> client = Client::Connect("unix:" + options.unix_socket);
  LayerSpec spec;
  spec.name = "a";
  spec.config.num_channels = 1;
  ASSERT_THAT(client->CreateLayer(spec), IsOk());

  // The server's end and the client's; the test server's own channel connects with the first call, and there was none.
  const std::vector<int> sizes = SendBuffers(before, nullptr);
  EXPECT_THAT(sizes, SizeIs(2));
  EXPECT_THAT(sizes, Each(Ge(416 << 10)));
}

}  // namespace
}  // namespace normd
