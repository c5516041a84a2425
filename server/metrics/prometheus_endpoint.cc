#include "server/metrics/prometheus_endpoint.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>

#include <exception>
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

}  // namespace

struct PrometheusEndpoint::Http {
  Http(const std::string& address, Collect collect)
      : families(std::make_shared<Families>(std::move(collect))), exposer(address) {
    exposer.RegisterCollectable(families);
  }
  // The exposer holds it weakly, and goes first.
  std::shared_ptr<Families> families;
  prometheus::Exposer exposer;
};

PrometheusEndpoint::PrometheusEndpoint() = default;
PrometheusEndpoint::~PrometheusEndpoint() = default;

absl::StatusOr<std::unique_ptr<PrometheusEndpoint>> PrometheusEndpoint::Listen(const std::string& address,
                                                                               Collect collect) {
  std::unique_ptr<PrometheusEndpoint> endpoint(new PrometheusEndpoint);
  try {
    endpoint->http_ = std::make_unique<Http>(address, std::move(collect));
    endpoint->port_ = endpoint->http_->exposer.GetListeningPorts().at(0);
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address, ": ", error.what()));
  }
  return endpoint;
}

}  // namespace normd::metrics
