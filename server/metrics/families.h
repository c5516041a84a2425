#ifndef NORMD_SERVER_METRICS_FAMILIES_H_
#define NORMD_SERVER_METRICS_FAMILIES_H_

#include <prometheus/metric_family.h>

#include <vector>

#include "normd/v1/admin_service.pb.h"

namespace normd::metrics {

// The statistics as Prometheus wants them. docs/operations.md says what each means.
std::vector<prometheus::MetricFamily> ToFamilies(const v1::ServerStatistics& statistics);

}  // namespace normd::metrics

#endif  // NORMD_SERVER_METRICS_FAMILIES_H_
