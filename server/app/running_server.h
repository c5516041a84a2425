#ifndef NORMD_SERVER_APP_RUNNING_SERVER_H_
#define NORMD_SERVER_APP_RUNNING_SERVER_H_

#include <grpcpp/server.h>

#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/wire/buffer_pool.h"
#include "server/access/access_control.h"
#include "server/app/administration.h"
#include "server/app/call_log.h"
#include "server/app/logger.h"
#include "server/app/memory_trimmer.h"
#include "server/app/server.h"
#include "server/app/tls_files.h"
#include "server/base/compute_thread.h"
#include "server/metrics/call_statistics.h"
#include "server/metrics/prometheus_endpoint.h"
#include "server/metrics/statistics_collector.h"
#include "server/registry/layer_registry.h"
#include "server/registry/snapshots.h"
#include "server/service/admin_service.h"
#include "server/service/health_service.h"
#include "server/service/layer_service.h"
#include "server/service/normalization_service.h"
#include "server/service/open_inference_service.h"
#include "server/service/shared_memory_service.h"
#include "server/service/snapshot_service.h"
#include "server/service/tensor_executor.h"
#include "server/service/unary_call.h"
#include "server/shm/region_registry.h"
#include "server/store/state_store.h"

namespace normd::app {

// Tells all who want to know of the calls.
class Observer final : public service::CallObserver {
 public:
  Observer(const access::AccessControl* access, Logger* logger, absl::Duration slow_after)
      : CallObserver(access), log_(logger, slow_after, access) {}
  void OnCall(const service::CallRecord& record) override {
    statistics.Count(record);
    log_.OnCall(record);
    if (trimmer != nullptr) trimmer->OnCall();
  }
  metrics::CallStatistics statistics;
  MemoryTrimmer* trimmer = nullptr;

 private:
  CallLog log_;
};

// What keeps others out; null: nothing.
struct Security {
  std::unique_ptr<TlsFiles> tls;
  std::unique_ptr<access::AccessControl> access;
};

// What Server::Start makes; apart, since whoever has a server need not know what it is made of.
class RunningServer final : public Server {
 public:
  // REQUIRES: Load, then ListenForMetrics and Listen, are called before anything else.
  RunningServer(const ServerOptions& options, Security security, std::unique_ptr<store::StateStore> store, int cores,
                Logger* logger);
  ~RunningServer() override;

  // The layers and snapshots of the store.
  absl::Status Load();
  int64_t num_layers() const { return registry_.size(); }
  absl::Status ListenForMetrics(const ServerOptions& options);
  absl::Status Listen(const ServerOptions& options);

  const std::vector<std::string>& addresses() const override { return addresses_; }
  const std::string& metrics_url() const override { return metrics_url_; }
  std::size_t waiting_calls() const override { return compute_thread_.waiting(); }
  wire::BufferPool& buffers() override { return buffers_; }
  int64_t max_message_bytes() const override { return max_message_bytes_; }
  int64_t shared_memory_bytes() const override { return regions_ != nullptr ? regions_->mapped_bytes() : 0; }
  void Shutdown(absl::Duration drain_timeout) override;

 private:
  void CloseIdleConnections(const std::future<void>& stopped);

  Logger* const logger_;
  const Security security_;
  Observer observer_;
  const std::unique_ptr<store::StateStore> store_;
  registry::LayerRegistry registry_;
  registry::Snapshots snapshots_;
  // Null: shared memory is off.
  const std::unique_ptr<shm::RegionRegistry> regions_;
  // Outlives the calls, which may wait in it.
  base::ComputeThread compute_thread_;
  wire::BufferPool buffers_;
  const int64_t max_message_bytes_;
  std::unique_ptr<MemoryTrimmer> trimmer_;
  service::TensorExecutor executor_;
  service::LayerServiceImpl layer_service_;
  service::SnapshotServiceImpl snapshot_service_;
  service::NormalizationServiceImpl normalization_service_;
  service::OpenInferenceService open_inference_service_;
  service::SharedMemoryServiceImpl shared_memory_service_;
  const metrics::StatisticsCollector statistics_;
  Administration administration_;
  service::AdminServiceImpl admin_service_;
  service::HealthService health_service_;
  std::vector<std::string> addresses_;
  std::unique_ptr<grpc::Server> grpc_server_;
  std::string metrics_url_;
  // Last: it reads all of the above. Null: none.
  std::unique_ptr<metrics::PrometheusEndpoint> metrics_endpoint_;
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_RUNNING_SERVER_H_
