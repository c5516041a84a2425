#include "server/metrics/prometheus_endpoint.h"

#include <netdb.h>
#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/metrics/families.h"

namespace normd::metrics {
namespace {

class Families final : public prometheus::Collectable {
 public:
  explicit Families(PrometheusEndpoint::Collect collect) : collect_(std::move(collect)) {}
  std::vector<prometheus::MetricFamily> Collect() const override { return ToFamilies(collect_()); }

 private:
  const PrometheusEndpoint::Collect collect_;
};

// Where a socket listens.
struct SocketAddress {
  sockaddr_storage storage{};
  // 0: unknown.
  socklen_t size = 0;
};

// That of `address`, HOST:PORT, whose port is `port`.
SocketAddress Resolve(const std::string& address, int port) {
  std::string host = address.substr(0, address.rfind(':'));
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  SocketAddress resolved;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return resolved;
  std::memcpy(&resolved.storage, found->ai_addr, found->ai_addrlen);
  resolved.size = found->ai_addrlen;
  freeaddrinfo(found);
  return resolved;
}

// Connects and hangs up.
void Knock(const SocketAddress& address) {
  const int socket = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (socket < 0) return;
  (void)connect(socket, reinterpret_cast<const sockaddr*>(&address.storage), address.size);
  close(socket);
}

}  // namespace

struct PrometheusEndpoint::Http {
  Http(const std::string& where, Collect collect)
      : families(std::make_shared<Families>(std::move(collect))),
        exposer(where),
        port(exposer.GetListeningPorts().at(0)),
        address(Resolve(where, port)) {
    exposer.RegisterCollectable(families);
  }

  // The exposer holds it weakly, and goes first.
  std::shared_ptr<Families> families;
  prometheus::Exposer exposer;
  const int port;
  const SocketAddress address;
};

PrometheusEndpoint::PrometheusEndpoint() = default;

// The HTTP server's thread looks whether it shall end when somebody connects, or after two seconds, by which every
// restart would be longer.
PrometheusEndpoint::~PrometheusEndpoint() {
  if (http_ == nullptr) return;
  std::atomic<bool> ended = false;
  std::thread knocker([address = http_->address, &ended] {
    while (!ended) {
      Knock(address);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  http_.reset();
  ended = true;
  knocker.join();
}

absl::StatusOr<std::unique_ptr<PrometheusEndpoint>> PrometheusEndpoint::Listen(const std::string& address,
                                                                               Collect collect) {
  std::unique_ptr<PrometheusEndpoint> endpoint(new PrometheusEndpoint);
  try {
    endpoint->http_ = std::make_unique<Http>(address, std::move(collect));
    endpoint->port_ = endpoint->http_->port;
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", error.what()));
  }
  return endpoint;
}

}  // namespace normd::metrics
