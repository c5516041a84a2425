#include "client/cpp/src/target.h"

#include <cstddef>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"
#include "proto/wire/loopback.h"

namespace normd::internal {
namespace {

// Without the scheme and the port.
absl::string_view HostOf(absl::string_view target) {
  for (const absl::string_view scheme : {"dns:///", "dns:", "ipv4:", "ipv6:"}) {
    if (absl::ConsumePrefix(&target, scheme)) break;
  }
  if (absl::ConsumePrefix(&target, "[")) {
    const std::size_t end = target.find(']');
    return end == absl::string_view::npos ? "" : target.substr(0, end);
  }
  const std::size_t colon = target.find(':');
  // Several: an IPv6 address without brackets, and so without a port.
  return colon == target.rfind(':') ? target.substr(0, colon) : target;
}

}  // namespace

bool IsUnixSocket(absl::string_view target) {
  return absl::StartsWith(target, "unix:") || absl::StartsWith(target, "unix-abstract:");
}

bool IsLoopback(absl::string_view target) { return wire::IsLoopbackHost(HostOf(target)); }

}  // namespace normd::internal
