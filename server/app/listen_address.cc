#include "server/app/listen_address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace normd::app {
namespace {

// A file descriptor that is closed at the end.
class Socket {
 public:
  Socket(int family, int type) : fd_(socket(family, type | SOCK_CLOEXEC, 0)) {}
  ~Socket() {
    if (fd_ >= 0) close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  const int fd_;
};

sockaddr_un UnixAddress(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::Status CannotListen(absl::string_view address, absl::string_view cause) {
  return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", cause));
}

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(absl::string_view address) {
  const absl::Status error = absl::InvalidArgumentError(
      absl::StrCat("'", address, "' is not HOST:PORT with a port from 0 to 65535 (IPv6: [HOST]:PORT)"));
  const auto colon = address.rfind(':');
  if (colon == absl::string_view::npos) return error;
  HostPort result;
  absl::string_view host = address.substr(0, colon);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != absl::string_view::npos) {
    return error;
  }
  if (host.empty() || !absl::SimpleAtoi(address.substr(colon + 1), &result.port) || result.port < 0 ||
      result.port > 65535) {
    return error;
  }
  result.host = std::string(host);
  return result;
}

std::string JoinHostPort(const HostPort& address) {
  const bool ipv6 = address.host.find(':') != std::string::npos;
  return ipv6 ? absl::StrCat("[", address.host, "]:", address.port) : absl::StrCat(address.host, ":", address.port);
}

absl::Status CheckSocketPath(const std::string& path) {
  sockaddr_un address;
  if (path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot listen on unix:", path, ": the path has ", path.size(),
                                                   " bytes, a socket's may have ", sizeof(address.sun_path) - 1));
  }
  struct stat info = {};
  if (lstat(path.c_str(), &info) != 0) return absl::OkStatus();  // Nothing there; what else is wrong shows on bind.
  if (!S_ISSOCK(info.st_mode)) {
    return absl::AlreadyExistsError(absl::StrCat("cannot listen on unix:", path, ": the file exists and is no socket"));
  }
  return absl::OkStatus();
}

absl::Status RemoveStaleSocket(const std::string& path) {
  if (absl::Status status = CheckSocketPath(path); !status.ok()) return status;
  if (struct stat info = {}; lstat(path.c_str(), &info) != 0) return absl::OkStatus();
  const sockaddr_un address = UnixAddress(path);
  const Socket probe(AF_UNIX, SOCK_STREAM);
  if (connect(probe.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return absl::AlreadyExistsError(absl::StrCat("cannot listen on unix:", path, ": ", std::strerror(EADDRINUSE)));
  }
  if (errno != ECONNREFUSED) return CannotListen(absl::StrCat("unix:", path), std::strerror(errno));
  if (unlink(path.c_str()) != 0) {
    return CannotListen(absl::StrCat("unix:", path),
                        absl::StrCat("cannot remove the stale socket: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status WhyNotTcp(const HostPort& address) {
  const std::string name = JoinHostPort(address);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
  if (error != 0) return CannotListen(name, gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  std::string cause = "the cause is unknown";
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    const Socket probe(entry->ai_family, entry->ai_socktype);
    const int yes = 1;
    if (probe.fd() >= 0) setsockopt(probe.fd(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (probe.fd() < 0 || bind(probe.fd(), entry->ai_addr, entry->ai_addrlen) != 0 || listen(probe.fd(), 1) != 0) {
      cause = std::strerror(errno);
      break;
    }
  }
  return CannotListen(name, cause);
}

absl::Status WhyNotUnix(const std::string& path) {
  const sockaddr_un address = UnixAddress(path);
  const Socket probe(AF_UNIX, SOCK_STREAM);
  std::string cause = "the cause is unknown";
  if (probe.fd() < 0 || bind(probe.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    cause = std::strerror(errno);
  } else {
    unlink(path.c_str());
  }
  return CannotListen(absl::StrCat("unix:", path), cause);
}

}  // namespace normd::app
