#include "server/metrics/statistics_collector.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "server/kernels/implementation.h"
#include "server/metrics/process_statistics.h"
#include "server/registry/layer_entry.h"

namespace normd::metrics {
namespace {

void Fill(const base::DurationHistogram& histogram, v1::DurationDistribution* out) {
  out->mutable_bounds_seconds()->Assign(histogram.kBoundsSeconds.begin(), histogram.kBoundsSeconds.end());
  out->mutable_counts()->Assign(histogram.counts.begin(), histogram.counts.end());
  out->set_sum_seconds(histogram.sum_seconds);
}

void Fill(const std::string& method, const MethodCounts& counts, v1::MethodStatistics* out) {
  out->set_method(method);
  for (std::size_t code = 0; code < counts.codes.size(); ++code) {
    if (counts.codes[code] == 0) continue;
    v1::CodeCount* const count = out->add_codes();
    count->set_code(static_cast<int>(code));
    count->set_count(counts.codes[code]);
  }
  Fill(counts.duration, out->mutable_duration());
  out->set_request_bytes(counts.request_bytes);
  out->set_response_bytes(counts.response_bytes);
}

}  // namespace

StatisticsCollector::StatisticsCollector(StatisticsSources sources)
    : sources_(std::move(sources)), start_(absl::Now()) {}

v1::ServerStatistics StatisticsCollector::Collect(int max_layers) const {
  v1::ServerStatistics out;
  out.set_server_version(sources_.server_version);
  out.set_instruction_set(kernels::ActiveImplementation().name);
  out.set_uptime_seconds(absl::ToDoubleSeconds(absl::Now() - start_));
  for (const auto& [method, counts] : sources_.calls->Sum()) Fill(method, counts, out.add_methods());
  out.set_calls_in_flight(sources_.observer->calls_in_flight());
  out.set_watchers(sources_.layer_service->num_watchers());

  v1::ComputeStatistics* const compute = out.mutable_compute();
  compute->set_waiting_calls(static_cast<int64_t>(sources_.compute_thread->waiting()));
  compute->set_max_waiting_calls(static_cast<int64_t>(sources_.compute_thread->max_waiting()));
  compute->set_refused_for_queue(sources_.executor->refused_for_queue());
  compute->set_refused_for_memory(sources_.executor->refused_for_memory());
  compute->set_threads(sources_.threads);

  v1::BufferStatistics* const buffers = out.mutable_buffers();
  buffers->set_in_use_bytes(sources_.buffers->in_use_bytes());
  buffers->set_kept_bytes(sources_.buffers->kept_bytes());
  buffers->set_peak_bytes(sources_.buffers->peak_bytes());
  buffers->set_budget_bytes(sources_.buffers->budget_bytes());

  *out.mutable_process() = ReadProcessStatistics();
  out.mutable_process()->set_start_time_seconds(absl::ToDoubleSeconds(start_ - absl::UnixEpoch()));

  const registry::CommitStatistics commits = sources_.registry->committer()->statistics();
  v1::StoreStatistics* const store = out.mutable_store();
  store->set_transactions(commits.transactions);
  store->set_updates(commits.updates);
  store->set_errors(commits.errors);
  store->set_conflicts(commits.conflicts);
  Fill(commits.duration, store->mutable_commit_duration());

  v1::SharedMemoryStatistics* const shared_memory = out.mutable_shared_memory();
  if (sources_.regions != nullptr) {
    shared_memory->set_sessions(sources_.regions->num_sessions());
    shared_memory->set_regions(sources_.regions->num_regions());
    shared_memory->set_mapped_bytes(sources_.regions->mapped_bytes());
  }

  out.set_num_layers(sources_.registry->size());
  const registry::ActivityTotals& totals = sources_.registry->directory()->totals();
  out.set_folds(totals.folds.load(std::memory_order_relaxed));
  out.set_rejected_batches(totals.rejected_batches.load(std::memory_order_relaxed));
  out.set_replays(totals.replays.load(std::memory_order_relaxed));
  AddLayers(max_layers, &out);
  v1::SecurityStatistics* const security = out.mutable_security();
  if (sources_.access != nullptr) security->set_denied_calls(sources_.access->refused());
  const absl::Time expires = sources_.certificate_expires();
  if (expires != absl::InfiniteFuture()) security->set_certificate_expire_time(absl::ToUnixSeconds(expires));
  return out;
}

void StatisticsCollector::AddLayers(int max_layers, v1::ServerStatistics* out) const {
  struct Ranked {
    // Read once: an order must not change while it is made.
    int64_t folds;
    std::shared_ptr<registry::LayerEntry> entry;
  };
  std::vector<Ranked> ranked;
  for (std::shared_ptr<registry::LayerEntry>& entry : sources_.registry->directory()->Entries()) {
    ranked.push_back({entry->activity().folds(), std::move(entry)});
  }
  // Equally busy layers stay in the order of their names.
  std::stable_sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) { return a.folds > b.folds; });
  if (ranked.size() > static_cast<std::size_t>(max_layers)) ranked.resize(static_cast<std::size_t>(max_layers));
  for (const Ranked& layer : ranked) {
    const registry::LayerEntry::SnapshotPtr snapshot = layer.entry->Snapshot();
    const registry::LayerActivity& activity = layer.entry->activity();
    v1::LayerStatistics* const added = out->add_layers();
    added->set_name(snapshot->name);
    added->set_version(snapshot->version);
    added->set_num_batches_tracked(snapshot->statistics->num_batches_tracked);
    added->set_folds(layer.folds);
    added->set_rejected_batches(activity.rejected_batches());
    const registry::Drift drift = activity.drift();
    if (!std::isnan(drift.mean)) added->set_mean_drift(drift.mean);
    if (!std::isnan(drift.variance)) added->set_variance_drift(drift.variance);
  }
}

}  // namespace normd::metrics
