#ifndef NORMD_SERVER_METRICS_STATISTICS_COLLECTOR_H_
#define NORMD_SERVER_METRICS_STATISTICS_COLLECTOR_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/time/time.h"
#include "normd/v1/admin_service.pb.h"
#include "proto/wire/buffer_pool.h"
#include "server/access/access_control.h"
#include "server/base/compute_thread.h"
#include "server/metrics/call_statistics.h"
#include "server/registry/layer_registry.h"
#include "server/service/layer_service.h"
#include "server/service/tensor_executor.h"
#include "server/service/unary_call.h"
#include "server/shm/region_registry.h"

namespace normd::metrics {

// The parts of a server that count what they do. All outlive the collector.
struct StatisticsSources {
  std::string server_version;
  // Cores that one call may use.
  int threads;
  const CallStatistics* calls;
  const service::CallObserver* observer;
  registry::LayerRegistry* registry;
  // Null: shared memory is off.
  const shm::RegionRegistry* regions;
  const base::ComputeThread* compute_thread;
  const wire::BufferPool* buffers;
  const service::TensorExecutor* executor;
  const service::LayerServiceImpl* layer_service;
  // Null: nobody is turned away.
  const access::AccessControl* access;
  // Of the server's certificate; infinite: it has none.
  std::function<absl::Time()> certificate_expires;
};

// Puts together what the parts of a server have counted, when somebody asks. Takes time that grows with the number of
// layers, some 0.1 us each, and holds up no call. Thread-safe.
class StatisticsCollector {
 public:
  explicit StatisticsCollector(StatisticsSources sources);

  // With at most `max_layers` layers.
  v1::ServerStatistics Collect(int max_layers) const;

 private:
  void AddLayers(int max_layers, v1::ServerStatistics* out) const;

  const StatisticsSources sources_;
  const absl::Time start_;
};

}  // namespace normd::metrics

#endif  // NORMD_SERVER_METRICS_STATISTICS_COLLECTOR_H_
