#include "client/cli/top_frame.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/cli/bench_report.h"
#include "client/cli/table.h"

namespace normd::cli {
namespace {

int64_t CountBefore(const DurationDistribution& before, std::size_t i) {
  return i < before.counts.size() ? before.counts[i] : 0;
}

int64_t CallsOf(const MethodStatistics& method, bool errors_only) {
  int64_t calls = 0;
  for (const CodeCount& code : method.codes) calls += errors_only && code.code == 0 ? 0 : code.count;
  return calls;
}

std::string BytesText(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1000 && unit < 4; ++unit) bytes /= 1024;
  return absl::StrFormat(unit == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
}

std::string BytesText(int64_t bytes) { return BytesText(static_cast<double>(bytes)); }

std::string SecondsText(double seconds) { return LatencyText(static_cast<int64_t>(seconds * 1e9)); }

std::string DriftText(const std::optional<double>& drift) { return drift.has_value() ? Number(*drift) : "-"; }

std::string Headline(absl::string_view server, const ServerStatistics& now, const ServerRate& rate) {
  const auto uptime = absl::Seconds(static_cast<int64_t>(now.uptime_seconds));
  std::string out =
      absl::StrCat("normd ", now.server_version, " (", now.instruction_set, ") at ", server, ", up ",
                   absl::FormatDuration(uptime), "; rates of the last ", absl::StrFormat("%.1f s\n", rate.seconds));
  absl::StrAppend(&out, "calls    ", now.calls_in_flight, " in flight, ", now.compute.waiting_calls, " of ",
                  now.compute.max_waiting_calls, " waiting, ", now.watchers,
                  " watching; refused: ", now.compute.refused_for_queue, " by the queue, ",
                  now.compute.refused_for_memory, " by memory\n");
  absl::StrAppend(&out, "process  ", absl::StrFormat("%.2f", rate.cpu), " cores (", now.compute.threads,
                  " for one call), ", BytesText(now.process.resident_bytes), " resident, ", now.process.open_fds,
                  " of ", now.process.max_fds, " files\n");
  absl::StrAppend(&out, "buffers  ", BytesText(now.buffers.in_use_bytes), " in use, ",
                  BytesText(now.buffers.kept_bytes), " kept, of ", BytesText(now.buffers.budget_bytes),
                  "; shared memory ", BytesText(now.shared_memory.mapped_bytes), " in ",
                  Counted(now.shared_memory.regions, "region"), "\n");
  absl::StrAppend(&out, "store    ", RateText(rate.commits_per_second), " commits/s of ",
                  absl::StrFormat("%.1f", rate.updates_per_commit), " updates, p50 ",
                  SecondsText(rate.commit_p50_seconds), ", p99 ", SecondsText(rate.commit_p99_seconds), ", ",
                  Counted(now.store.errors, "error"), ", ", Counted(now.store.conflicts, "conflict"), "\n");
  absl::StrAppend(&out, "layers   ", now.num_layers, "; ", Counted(now.folds, "step"), ", ", now.rejected_batches,
                  " rejected, ", Counted(now.replays, "replay"), "\n");
  return out;
}

}  // namespace

double Quantile(const DurationDistribution& before, const DurationDistribution& now, double q) {
  int64_t total = 0;
  for (std::size_t i = 0; i < now.counts.size(); ++i) total += now.counts[i] - CountBefore(before, i);
  if (total <= 0) return 0;
  const double rank = q * static_cast<double>(total);
  double below = 0;
  for (std::size_t i = 0; i < now.counts.size(); ++i) {
    const auto count = static_cast<double>(now.counts[i] - CountBefore(before, i));
    if (count <= 0 || below + count < rank) {
      below += std::max(count, 0.0);
      continue;
    }
    const double lower = i == 0 ? 0 : now.bounds_seconds[i - 1];
    if (i == now.bounds_seconds.size()) return lower;
    return lower + (now.bounds_seconds[i] - lower) * (rank - below) / count;
  }
  return now.bounds_seconds.back();
}

ServerRate RateBetween(const ServerStatistics& earlier, const ServerStatistics& now) {
  static const ServerStatistics kNothing;
  const bool same_server = earlier.process.start_time_seconds == now.process.start_time_seconds;
  const ServerStatistics& before = same_server ? earlier : kNothing;
  ServerRate rate;
  rate.seconds = std::max(now.uptime_seconds - before.uptime_seconds, 1e-9);
  rate.cpu = (now.process.cpu_seconds - before.process.cpu_seconds) / rate.seconds;
  const int64_t commits = now.store.transactions - before.store.transactions;
  rate.commits_per_second = static_cast<double>(commits) / rate.seconds;
  if (commits > 0) {
    rate.updates_per_commit =
        static_cast<double>(now.store.updates - before.store.updates) / static_cast<double>(commits);
  }
  rate.commit_p50_seconds = Quantile(before.store.commit_duration, now.store.commit_duration, 0.5);
  rate.commit_p99_seconds = Quantile(before.store.commit_duration, now.store.commit_duration, 0.99);

  std::map<std::string, const MethodStatistics*> methods;
  for (const MethodStatistics& method : before.methods) methods[method.method] = &method;
  static const MethodStatistics kNoCalls;
  for (const MethodStatistics& method : now.methods) {
    const auto known = methods.find(method.method);
    const MethodStatistics& base = known == methods.end() ? kNoCalls : *known->second;
    MethodRate out{.method = method.method};
    out.calls = CallsOf(method, false) - CallsOf(base, false);
    out.errors = CallsOf(method, true) - CallsOf(base, true);
    out.calls_per_second = static_cast<double>(out.calls) / rate.seconds;
    out.errors_per_second = static_cast<double>(out.errors) / rate.seconds;
    out.request_bytes_per_second = static_cast<double>(method.request_bytes - base.request_bytes) / rate.seconds;
    out.response_bytes_per_second = static_cast<double>(method.response_bytes - base.response_bytes) / rate.seconds;
    out.p50_seconds = Quantile(base.duration, method.duration, 0.5);
    out.p99_seconds = Quantile(base.duration, method.duration, 0.99);
    rate.methods.push_back(std::move(out));
  }
  std::stable_sort(rate.methods.begin(), rate.methods.end(),
                   [](const MethodRate& a, const MethodRate& b) { return a.calls > b.calls; });

  std::map<std::string, int64_t> folds;
  for (const LayerStatistics& layer : before.layers) folds[layer.name] = layer.folds;
  for (const LayerStatistics& layer : now.layers) {
    const auto known = folds.find(layer.name);
    // One that was deleted and made again began at 0, too.
    const int64_t base = known == folds.end() || known->second > layer.folds ? 0 : known->second;
    rate.layers.push_back({layer, static_cast<double>(layer.folds - base) / rate.seconds});
  }
  std::stable_sort(rate.layers.begin(), rate.layers.end(),
                   [](const LayerRate& a, const LayerRate& b) { return a.folds_per_second > b.folds_per_second; });
  return rate;
}

std::string TopFrame(absl::string_view server, const ServerStatistics& before, const ServerStatistics& now) {
  const ServerRate rate = RateBetween(before, now);
  std::ostringstream out;
  out << Headline(server, now, rate) << "\n";
  Table methods({"METHOD", "CALLS/S", "P50", "P99", "ERRORS/S", "IN/S", "OUT/S"},
                {false, true, true, true, true, true, true});
  for (const MethodRate& method : rate.methods) {
    const bool idle = method.calls == 0;
    methods.AddRow({method.method, RateText(method.calls_per_second), idle ? "-" : SecondsText(method.p50_seconds),
                    idle ? "-" : SecondsText(method.p99_seconds), RateText(method.errors_per_second),
                    BytesText(method.request_bytes_per_second), BytesText(method.response_bytes_per_second)});
  }
  methods.Print(&out);
  out << "\n";
  Table layers({"LAYER", "STEPS/S", "VERSION", "BATCHES", "REJECTED", "MEAN DRIFT", "VAR DRIFT"},
               {false, true, true, true, true, true, true});
  for (const LayerRate& row : rate.layers) {
    const LayerStatistics& layer = row.layer;
    layers.AddRow({layer.name, RateText(row.folds_per_second), absl::StrCat(layer.version),
                   absl::StrCat(layer.num_batches_tracked), absl::StrCat(layer.rejected_batches),
                   DriftText(layer.mean_drift), DriftText(layer.variance_drift)});
  }
  layers.Print(&out);
  return out.str();
}

}  // namespace normd::cli
