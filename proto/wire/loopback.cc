#include "proto/wire/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <string>

#include "absl/strings/match.h"

namespace normd::wire {
namespace {

bool IsLoopbackV4(const in_addr& address) { return ntohl(address.s_addr) >> 24 == IN_LOOPBACKNET; }

bool IsLoopbackV6(const in6_addr& address) {
  return IN6_IS_ADDR_LOOPBACK(&address) || (IN6_IS_ADDR_V4MAPPED(&address) && address.s6_addr[12] == IN_LOOPBACKNET);
}

}  // namespace

bool IsLoopback(const sockaddr_storage& address) {
  if (address.ss_family == AF_INET) return IsLoopbackV4(reinterpret_cast<const sockaddr_in&>(address).sin_addr);
  return address.ss_family == AF_INET6 && IsLoopbackV6(reinterpret_cast<const sockaddr_in6&>(address).sin6_addr);
}

bool IsLoopbackHost(absl::string_view host) {
  const std::string text(host);
  in_addr v4 = {};
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return IsLoopbackV4(v4);
  in6_addr v6 = {};
  if (inet_pton(AF_INET6, text.c_str(), &v6) == 1) return IsLoopbackV6(v6);
  return absl::EqualsIgnoreCase(host, "localhost");
}

}  // namespace normd::wire
