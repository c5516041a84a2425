#include "proto/wire/loopback.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <string>

namespace normd::wire {
namespace {

sockaddr_storage Address(const std::string& text) {
  sockaddr_storage storage = {};
  auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
  auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
  if (inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
    storage.ss_family = AF_INET;
  } else {
    EXPECT_EQ(inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr), 1) << text;
    storage.ss_family = AF_INET6;
  }
  return storage;
}

TEST(Loopback, AddressesOfThisMachineAlone) {
  for (const char* const address : {"127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"}) {
    EXPECT_TRUE(IsLoopback(Address(address))) << address;
    EXPECT_TRUE(IsLoopbackHost(address)) << address;
  }
  for (const char* const address :
       {"0.0.0.0", "128.0.0.1", "10.0.0.1", "::", "::2", "fe80::1", "::ffff:10.0.0.1", "7f00::1"}) {
    EXPECT_FALSE(IsLoopback(Address(address))) << address;
    EXPECT_FALSE(IsLoopbackHost(address)) << address;
  }
  sockaddr_storage unix_socket = {};
  unix_socket.ss_family = AF_UNIX;
  EXPECT_FALSE(IsLoopback(unix_socket));
}

TEST(Loopback, LocalhostIsTheOnlyName) {
  EXPECT_TRUE(IsLoopbackHost("localhost"));
  EXPECT_TRUE(IsLoopbackHost("LocalHost"));
  for (const char* const name :
       {"", "127", "127.0.0.1.example.com", "localhost.example.com", "[::1]", "127.0.0.1:80", "127.0.0.1 "}) {
    EXPECT_FALSE(IsLoopbackHost(name)) << name;
  }
}

}  // namespace
}  // namespace normd::wire
