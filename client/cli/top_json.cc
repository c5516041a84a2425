#include "client/cli/top_json.h"

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "client/cli/top_frame.h"

namespace normd::cli {
namespace {

Json DurationJson(const DurationDistribution& durations) {
  return {{"bounds_seconds", durations.bounds_seconds},
          {"counts", durations.counts},
          {"sum_seconds", durations.sum_seconds}};
}

Json MethodJson(const MethodStatistics& method) {
  Json codes = Json::object();
  for (const CodeCount& code : method.codes) {
    codes[absl::StatusCodeToString(static_cast<absl::StatusCode>(code.code))] = code.count;
  }
  return {{"method", method.method},
          {"codes", std::move(codes)},
          {"duration", DurationJson(method.duration)},
          {"request_bytes", method.request_bytes},
          {"response_bytes", method.response_bytes}};
}

Json DriftJson(const std::optional<double>& drift) { return drift.has_value() ? ToJson(*drift) : Json(); }

Json LayerJson(const LayerStatistics& layer) {
  return {{"name", layer.name},
          {"version", layer.version},
          {"num_batches_tracked", layer.num_batches_tracked},
          {"folds", layer.folds},
          {"rejected_batches", layer.rejected_batches},
          {"mean_drift", DriftJson(layer.mean_drift)},
          {"variance_drift", DriftJson(layer.variance_drift)}};
}

Json RatesJson(const ServerRate& rate) {
  Json methods = Json::array();
  for (const MethodRate& method : rate.methods) {
    methods.push_back({{"method", method.method},
                       {"calls", method.calls},
                       {"errors", method.errors},
                       {"calls_per_second", method.calls_per_second},
                       {"errors_per_second", method.errors_per_second},
                       {"request_bytes_per_second", method.request_bytes_per_second},
                       {"response_bytes_per_second", method.response_bytes_per_second},
                       {"p50_seconds", method.p50_seconds},
                       {"p99_seconds", method.p99_seconds}});
  }
  Json layers = Json::array();
  for (const LayerRate& layer : rate.layers) {
    layers.push_back({{"name", layer.layer.name}, {"folds_per_second", layer.folds_per_second}});
  }
  return {{"seconds", rate.seconds},
          {"cpu", rate.cpu},
          {"commits_per_second", rate.commits_per_second},
          {"updates_per_commit", rate.updates_per_commit},
          {"commit_p50_seconds", rate.commit_p50_seconds},
          {"commit_p99_seconds", rate.commit_p99_seconds},
          {"methods", std::move(methods)},
          {"layers", std::move(layers)}};
}

}  // namespace

Json TopJson(absl::string_view server, const ServerStatistics& before, const ServerStatistics& now) {
  Json methods = Json::array();
  for (const MethodStatistics& method : now.methods) methods.push_back(MethodJson(method));
  Json layers = Json::array();
  for (const LayerStatistics& layer : now.layers) layers.push_back(LayerJson(layer));
  return {{"server", std::string(server)},
          {"server_version", now.server_version},
          {"instruction_set", now.instruction_set},
          {"uptime_seconds", now.uptime_seconds},
          {"methods", std::move(methods)},
          {"calls_in_flight", now.calls_in_flight},
          {"watchers", now.watchers},
          {"compute",
           {{"waiting_calls", now.compute.waiting_calls},
            {"max_waiting_calls", now.compute.max_waiting_calls},
            {"refused_for_queue", now.compute.refused_for_queue},
            {"refused_for_memory", now.compute.refused_for_memory},
            {"threads", now.compute.threads}}},
          {"buffers",
           {{"in_use_bytes", now.buffers.in_use_bytes},
            {"kept_bytes", now.buffers.kept_bytes},
            {"peak_bytes", now.buffers.peak_bytes},
            {"budget_bytes", now.buffers.budget_bytes}}},
          {"process",
           {{"resident_bytes", now.process.resident_bytes},
            {"virtual_bytes", now.process.virtual_bytes},
            {"cpu_seconds", now.process.cpu_seconds},
            {"open_fds", now.process.open_fds},
            {"max_fds", now.process.max_fds},
            {"start_time_seconds", now.process.start_time_seconds}}},
          {"store",
           {{"transactions", now.store.transactions},
            {"updates", now.store.updates},
            {"errors", now.store.errors},
            {"conflicts", now.store.conflicts},
            {"commit_duration", DurationJson(now.store.commit_duration)}}},
          {"shared_memory",
           {{"sessions", now.shared_memory.sessions},
            {"regions", now.shared_memory.regions},
            {"mapped_bytes", now.shared_memory.mapped_bytes}}},
          {"num_layers", now.num_layers},
          {"folds", now.folds},
          {"rejected_batches", now.rejected_batches},
          {"replays", now.replays},
          {"layers", std::move(layers)},
          {"rates", RatesJson(RateBetween(before, now))}};
}

}  // namespace normd::cli
