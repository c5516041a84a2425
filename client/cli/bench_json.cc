#include "client/cli/bench_json.h"

#include "client/cli/names.h"
#include "normd/version.h"

namespace normd::cli {
namespace {

Json Microseconds(double nanoseconds) { return nanoseconds / 1e3; }

Json LatencyOf(const LatencyHistogram& latency) {
  const bool any = latency.count() > 0;
  const auto at = [&](int per_mille) {
    return any ? Microseconds(static_cast<double>(latency.AtPerMille(per_mille))) : Json();
  };
  Json out;
  out["mean"] = any ? Microseconds(latency.mean()) : Json();
  out["min"] = any ? Microseconds(static_cast<double>(latency.min())) : Json();
  out["p50"] = at(500);
  out["p90"] = at(900);
  out["p99"] = at(990);
  out["p99_9"] = latency.HasTail(999) ? at(999) : Json();
  out["max"] = at(1000);
  return out;
}

Json ErrorsOf(const std::map<absl::StatusCode, int64_t>& errors) {
  Json out = Json::object();
  for (const auto& [code, count] : errors) out[absl::StatusCodeToString(code)] = count;
  return out;
}

Json WindowOf(const BenchReport& report, const BenchWindow& window, absl::Duration time) {
  const double seconds = absl::ToDoubleSeconds(time);
  const auto per_second = [&](int64_t amount, double unit) { return static_cast<double>(amount) / unit / seconds; };
  Json out;
  out["seconds"] = seconds;
  out["requests"] = window.ok() + window.failed();
  out["ok"] = window.ok();
  out["errors"] = ErrorsOf(window.errors());
  out["ok_per_second"] = per_second(window.ok(), 1);
  out["sent_megabytes_per_second"] = per_second(window.bytes_sent(), 1e6);
  out["received_megabytes_per_second"] = per_second(window.bytes_received(), 1e6);
  out["under_way_before"] = window.under_way_before;
  out["started"] = window.started;
  out["under_way_after"] = window.under_way_after;
  if (report.options.open_loop()) {
    out["due"] = window.started + window.not_sent;
    out["not_sent"] = window.not_sent;
    out["send_delay_us"] = LatencyOf(window.send_delay);
  }
  for (const BenchCall kind : report.kinds()) {
    const BenchCallStats& stats = window.of(kind);
    Json call;
    call["ok"] = stats.ok();
    call["errors"] = ErrorsOf(stats.errors);
    call["latency_us"] = LatencyOf(stats.latency);
    out[NameOf(kind)] = std::move(call);
  }
  return out;
}

Json SettingsOf(const BenchReport& report) {
  const BenchOptions& options = report.options;
  Json out;
  out["shapes"] = options.shapes;
  out["dtype"] = std::string(NameOf(options.dtype));
  out["layout"] = NameOf(LayoutNames(), options.layout);
  out["train_fraction"] = options.train_fraction;
  out["layer"] = options.layer.empty() ? Json() : Json(options.layer);
  out["connections"] = options.connections;
  out["transport"] = options.transport == Transport::kSharedMemory ? "shm" : "grpc";
  out["loop"] = options.open_loop() ? "open" : "closed";
  if (options.open_loop()) {
    out["rate"] = options.rate;
    out["max_in_flight"] = MaxInFlight(options);
  } else {
    out["concurrency"] = options.concurrency;
  }
  out["warmup_seconds"] = absl::ToDoubleSeconds(options.warmup);
  out["duration_seconds"] = absl::ToDoubleSeconds(options.duration);
  out["windows"] = options.windows;
  out["timeout_seconds"] = absl::ToDoubleSeconds(report.timeout);
  return out;
}

}  // namespace

Json ToJson(const BenchReport& report) {
  Json out;
  out["client_version"] = std::string(Version());
  out["server"] = report.server;
  out["settings"] = SettingsOf(report);
  out["windows"] = Json::array();
  for (const BenchWindow& window : report.windows) {
    out["windows"].push_back(WindowOf(report, window, report.options.duration));
  }
  out["total"] = WindowOf(report, report.total, report.TotalTime());
  out["windows_disagree"] = report.windows_disagree();
  out["throughput_spread"] = report.throughput_spread;
  out["p50_spread"] = report.p50_spread;
  out["spread_tolerance"] = BenchReport::kTolerance;
  out["error_messages"] = Json::object();
  for (const auto& [code, message] : report.messages) {
    out["error_messages"][absl::StatusCodeToString(code)] = message;
  }
  out["warnings"] = report.warnings();
  return out;
}

}  // namespace normd::cli
