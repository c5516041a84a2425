#include "server/metrics/families.h"

#include <cstdint>
#include <limits>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace normd::metrics {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

// The families, in the order in which they are added.
class Families {
 public:
  // Begins a family, which the metrics that follow belong to.
  void Begin(const char* name, MetricType type, const char* help) {
    families_.push_back({.name = name, .help = help, .type = type, .metric = {}});
  }

  void Add(double value, Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    if (families_.back().type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    families_.back().metric.push_back(std::move(metric));
  }
  void Add(int64_t value, Labels labels = {}) { Add(static_cast<double>(value), std::move(labels)); }

  void Add(const v1::DurationDistribution& durations, Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    std::uint64_t count = 0;
    for (int i = 0; i < durations.counts_size(); ++i) {
      count += static_cast<std::uint64_t>(durations.counts(i));
      const bool last = i == durations.bounds_seconds_size();
      metric.histogram.bucket.push_back(
          {.cumulative_count = count,
           .upper_bound = last ? std::numeric_limits<double>::infinity() : durations.bounds_seconds(i)});
    }
    metric.histogram.sample_count = count;
    metric.histogram.sample_sum = durations.sum_seconds();
    families_.back().metric.push_back(std::move(metric));
  }

  void Gauge(const char* name, const char* help, auto value) {
    Begin(name, MetricType::Gauge, help);
    Add(value);
  }
  void Counter(const char* name, const char* help, auto value) {
    Begin(name, MetricType::Counter, help);
    Add(value);
  }

  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  std::vector<MetricFamily> families_;
};

void AddCalls(const v1::ServerStatistics& statistics, Families* out) {
  out->Begin("normd_calls_total", MetricType::Counter, "Calls that ended, by method and status code.");
  for (const v1::MethodStatistics& method : statistics.methods()) {
    for (const v1::CodeCount& code : method.codes()) {
      out->Add(code.count(), {{"method", method.method()},
                              {"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(code.code()))}});
    }
  }
  out->Begin("normd_call_duration_seconds", MetricType::Histogram, "How long calls took in the server, by method.");
  for (const v1::MethodStatistics& method : statistics.methods()) {
    out->Add(method.duration(), {{"method", method.method()}});
  }
  out->Begin("normd_request_bytes_total", MetricType::Counter, "Size of the requests as they travel, by method.");
  for (const v1::MethodStatistics& method : statistics.methods()) {
    out->Add(method.request_bytes(), {{"method", method.method()}});
  }
  out->Begin("normd_response_bytes_total", MetricType::Counter, "Size of the responses as they travel, by method.");
  for (const v1::MethodStatistics& method : statistics.methods()) {
    out->Add(method.response_bytes(), {{"method", method.method()}});
  }
  out->Gauge("normd_calls_in_flight", "Calls that have begun and not ended.", statistics.calls_in_flight());
  out->Gauge("normd_watchers", "Open WatchLayers streams.", statistics.watchers());
  const v1::SecurityStatistics& security = statistics.security();
  out->Counter("normd_calls_denied_total", "Calls of nobody known, or of somebody without a role for the method.",
               security.denied_calls());
  if (security.has_certificate_expire_time()) {
    out->Gauge("normd_certificate_expire_timestamp_seconds", "When the server's TLS certificate expires.",
               security.certificate_expire_time());
  }
}

void AddResources(const v1::ServerStatistics& statistics, Families* out) {
  const v1::ComputeStatistics& compute = statistics.compute();
  out->Gauge("normd_compute_threads", "Cores that one call may use.", static_cast<int64_t>(compute.threads()));
  out->Gauge("normd_compute_waiting_calls", "Calls that wait for the compute thread.", compute.waiting_calls());
  out->Gauge("normd_compute_max_waiting_calls", "Calls that may wait for it (--max-waiting-calls).",
             compute.max_waiting_calls());
  out->Begin("normd_calls_refused_total", MetricType::Counter, "Calls refused for want of room, with a retry hint.");
  out->Add(compute.refused_for_queue(), {{"reason", "queue"}});
  out->Add(compute.refused_for_memory(), {{"reason", "memory"}});

  const v1::BufferStatistics& buffers = statistics.buffers();
  out->Gauge("normd_buffers_in_use_bytes", "Memory of tensors and messages that calls hold.", buffers.in_use_bytes());
  out->Gauge("normd_buffers_kept_bytes", "Memory kept for the next calls.", buffers.kept_bytes());
  out->Gauge("normd_buffers_peak_bytes", "The most that both were together.", buffers.peak_bytes());
  out->Gauge("normd_buffers_budget_bytes", "The most that both may be (--memory-budget).", buffers.budget_bytes());

  const v1::SharedMemoryStatistics& shared_memory = statistics.shared_memory();
  out->Gauge("normd_shared_memory_sessions", "Open sessions of shared memory.", shared_memory.sessions());
  out->Gauge("normd_shared_memory_regions", "Mapped regions of shared memory.", shared_memory.regions());
  out->Gauge("normd_shared_memory_mapped_bytes", "Size of the mapped regions.", shared_memory.mapped_bytes());

  const v1::ProcessStatistics& process = statistics.process();
  out->Gauge("process_resident_memory_bytes", "Resident memory size in bytes.", process.resident_bytes());
  out->Gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", process.virtual_bytes());
  out->Counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", process.cpu_seconds());
  out->Gauge("process_open_fds", "Number of open file descriptors.", process.open_fds());
  out->Gauge("process_max_fds", "Maximum number of open file descriptors.", process.max_fds());
  out->Gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.",
             process.start_time_seconds());
}

void AddState(const v1::ServerStatistics& statistics, Families* out) {
  const v1::StoreStatistics& store = statistics.store();
  out->Begin("normd_store_commit_duration_seconds", MetricType::Histogram, "How long transactions of the store took.");
  out->Add(store.commit_duration());
  out->Counter("normd_store_transactions_total", "Transactions that succeeded.", store.transactions());
  out->Counter("normd_store_updates_total", "Updates in them.", store.updates());
  out->Counter("normd_store_errors_total", "Transactions that failed.", store.errors());
  out->Counter("normd_store_conflicts_total", "Transactions that another server forestalled.", store.conflicts());

  out->Gauge("normd_layers", "Layers there are.", statistics.num_layers());
  out->Gauge("normd_layers_without_metrics", "Layers beyond --metrics-max-layers.",
             statistics.num_layers() - statistics.layers_size());
  out->Counter("normd_folds_total", "Training steps and merges folded in, in all layers.", statistics.folds());
  out->Counter("normd_rejected_batches_total", "Batches refused for their NaN or infinity, in all layers.",
               statistics.rejected_batches());
  out->Counter("normd_replays_total", "Calls recognised as repetitions.", statistics.replays());
}

void AddLayers(const v1::ServerStatistics& statistics, Families* out) {
  const auto add = [&](const char* name, MetricType type, const char* help, auto value) {
    out->Begin(name, type, help);
    for (const v1::LayerStatistics& layer : statistics.layers()) out->Add(value(layer), {{"layer", layer.name()}});
  };
  using Layer = v1::LayerStatistics;
  add("normd_layer_version", MetricType::Gauge, "The layer's newest version.",
      [](const Layer& layer) { return layer.version(); });
  add("normd_layer_batches_tracked", MetricType::Gauge, "num_batches_tracked of the layer.",
      [](const Layer& layer) { return layer.num_batches_tracked(); });
  add("normd_layer_folds_total", MetricType::Counter, "Training steps and merges folded into the layer.",
      [](const Layer& layer) { return layer.folds(); });
  add("normd_layer_rejected_batches_total", MetricType::Counter, "Batches refused for their NaN or infinity.",
      [](const Layer& layer) { return layer.rejected_batches(); });
  out->Begin("normd_layer_mean_drift", MetricType::Gauge,
             "Latest batch: most standard deviations between a batch mean and the running mean.");
  for (const Layer& layer : statistics.layers()) {
    if (layer.has_mean_drift()) out->Add(layer.mean_drift(), {{"layer", layer.name()}});
  }
  out->Begin("normd_layer_variance_drift", MetricType::Gauge,
             "Latest batch: largest absolute logarithm of batch variance by running variance.");
  for (const Layer& layer : statistics.layers()) {
    if (layer.has_variance_drift()) out->Add(layer.variance_drift(), {{"layer", layer.name()}});
  }
}

}  // namespace

std::vector<MetricFamily> ToFamilies(const v1::ServerStatistics& statistics) {
  Families out;
  out.Begin("normd_build_info", MetricType::Gauge, "1; which program runs, and with which kernels.");
  out.Add(int64_t{1}, {{"version", statistics.server_version()}, {"instruction_set", statistics.instruction_set()}});
  AddCalls(statistics, &out);
  AddResources(statistics, &out);
  AddState(statistics, &out);
  AddLayers(statistics, &out);
  return out.Take();
}

}  // namespace normd::metrics
