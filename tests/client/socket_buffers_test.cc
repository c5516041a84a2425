#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <filesystem>
#include <map>
#include <memory>
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

// This process's connected Unix sockets, or the others: descriptors and sizes of their send buffers.
std::map<int, int> SendBuffers(bool of_unix) {
  std::map<int, int> sizes;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int fd = std::stoi(entry.path().filename());
    sockaddr_storage peer = {};
    socklen_t peer_size = sizeof(peer);
    if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0) continue;
    if ((peer.ss_family == AF_UNIX) != of_unix) continue;
    int size = 0;
    socklen_t length = sizeof(size);
    if (getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, &length) == 0) sizes[fd] = size;
  }
  return sizes;
}

// Of the server's end and the client's, after a call; the test server's own channel connects with its first call, and
// there was none.
std::vector<int> SendBuffersOfACall(const std::string& target, bool of_unix) {
  const std::map<int, int> before = SendBuffers(of_unix);
  const std::unique_ptr<Client> client = Client::Connect(target);
  LayerSpec spec;
  spec.name = "a";
  spec.config.num_channels = 1;
  EXPECT_THAT(client->CreateLayer(spec), IsOk());
  std::vector<int> sizes;
  for (const auto& [fd, size] : SendBuffers(of_unix)) {
    if (!before.contains(fd)) sizes.push_back(size);
  }
  return sizes;
}

TEST(SocketBuffersTest, BothEndsOfAUnixSocketSendFromLargeBuffers) {
  const tests::TempDir dir;
  app::ServerOptions options = tests::TestOptions();
  options.listen = "";
  options.unix_socket = dir.Path("normd.sock");
  const tests::TestServer server(options);
  const std::vector<int> sizes = SendBuffersOfACall("unix:" + options.unix_socket, true);
  EXPECT_THAT(sizes, SizeIs(2));
  EXPECT_THAT(sizes, Each(Ge(416 << 10)));
}

// The kernel's own 2.5 MB and more let the writer run far ahead of the reader.
TEST(SocketBuffersTest, BothEndsOfALoopbackConnectionSendFromSmallBuffers) {
  for (const char* address : {"127.0.0.1:0", "localhost:0"}) {
    app::ServerOptions options = tests::TestOptions();
    options.listen = address;
    const tests::TestServer server(options);
    const std::vector<int> sizes = SendBuffersOfACall(server.address(), false);
    EXPECT_THAT(sizes, SizeIs(2)) << address;
    EXPECT_THAT(sizes, Each(256 << 10)) << address;
  }
}

}  // namespace
}  // namespace normd
