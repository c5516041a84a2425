#ifndef NORMD_SERVER_APP_LISTEN_ADDRESS_H_
#define NORMD_SERVER_APP_LISTEN_ADDRESS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::app {

struct HostPort {
  // Without the brackets of an IPv6 address.
  std::string host;
  int port = 0;
};

// "127.0.0.1:50051", "localhost:0", "[::1]:50051". INVALID_ARGUMENT otherwise.
absl::StatusOr<HostPort> ParseHostPort(absl::string_view address);
// The inverse.
std::string JoinHostPort(const HostPort& address);

// INVALID_ARGUMENT: too long for a socket. ALREADY_EXISTS: something that is no socket is there.
absl::Status CheckSocketPath(const std::string& path);

// Makes the way free for a Unix socket at `path`: removes a socket file that nobody answers on. ALREADY_EXISTS:
// somebody does. Otherwise as CheckSocketPath.
absl::Status RemoveStaleSocket(const std::string& path);

// Why gRPC, which does not say, could not listen there: tries the same and reports the system's words. Never OK.
absl::Status WhyNotTcp(const HostPort& address);
absl::Status WhyNotUnix(const std::string& path);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_LISTEN_ADDRESS_H_
