#include "client/cpp/src/target.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace normd::internal {
namespace {

// Without the scheme and the port.
std::string HostOf(absl::string_view target) {
  for (const absl::string_view scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::ConsumePrefix(&target, scheme)) break;
  }
  if (absl::ConsumePrefix(&target, "[")) {
    const std::size_t end = target.find(']');
    return std::string(end == absl::string_view::npos ? "" : target.substr(0, end));
  }
  const std::size_t colon = target.find(':');
  // Several: an IPv6 address without brackets, and so without a port.
  return std::string(colon == target.rfind(':') ? target.substr(0, colon) : target);
}

}  // namespace

bool IsUnixSocket(absl::string_view target) {
  return absl::StartsWith(target, "unix:") || absl::StartsWith(target, "unix-abstract:");
}

bool IsLoopback(absl::string_view target) {
  const std::string host = HostOf(target);
  in_addr v4 = {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6 = {};
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return absl::EqualsIgnoreCase(host, "localhost");
}

}  // namespace normd::internal
