#ifndef NORMD_SERVER_METRICS_PROMETHEUS_ENDPOINT_H_
#define NORMD_SERVER_METRICS_PROMETHEUS_ENDPOINT_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "normd/v1/admin_service.pb.h"

namespace normd::metrics {

// The HTTP server that Prometheus scrapes, on two threads of its own. Thread-safe.
class PrometheusEndpoint {
 public:
  using Collect = std::function<v1::ServerStatistics()>;

  // Listens on `address`, HOST:PORT; port 0 picks a free one. `collect` is called for each scrape, on any thread, until
  // this is destroyed. UNAVAILABLE: cannot listen there; why, the library does not say.
  static absl::StatusOr<std::unique_ptr<PrometheusEndpoint>> Listen(const std::string& address, Collect collect);
  ~PrometheusEndpoint();
  PrometheusEndpoint(const PrometheusEndpoint&) = delete;
  PrometheusEndpoint& operator=(const PrometheusEndpoint&) = delete;

  int port() const { return port_; }

 private:
  struct Http;
  PrometheusEndpoint();

  int port_ = 0;
  std::unique_ptr<Http> http_;
};

}  // namespace normd::metrics

#endif  // NORMD_SERVER_METRICS_PROMETHEUS_ENDPOINT_H_
