#include "client/cli/bench_report.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace normd::cli {
namespace {

double SpreadOf(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
  double sum = 0;
  for (const double value : values) sum += value;
  return sum > 0 ? (*greatest - *least) / (sum / static_cast<double>(values.size())) : 0;
}

std::string Percent(double fraction) { return absl::StrFormat("%.0f %%", fraction * 100); }

}  // namespace

std::vector<BenchCall> BenchReport::kinds() const {
  std::vector<BenchCall> kinds;
  if (options.train_fraction < 1) kinds.push_back(BenchCall::kInfer);
  if (options.train_fraction > 0) kinds.push_back(BenchCall::kTrain);
  return kinds;
}

std::vector<std::string> BenchReport::warnings() const {
  std::vector<std::string> warnings;
  if (windows.size() < static_cast<std::size_t>(options.windows)) {
    warnings.push_back(absl::StrCat("interrupted after ", windows.size(), " of ", options.windows, " windows"));
  }
  if (windows_disagree()) {
    warnings.push_back(absl::StrCat("the windows disagree: OK/S differs by ", Percent(throughput_spread), ", P50 by ",
                                    Percent(p50_spread), ", where ", Percent(kTolerance),
                                    " would do; try a longer --warmup and --duration, or a quieter machine"));
  }
  if (total.not_sent > 0) {
    warnings.push_back(absl::StrCat(Counted(total.not_sent, "call"), " of ", total.started + total.not_sent,
                                    " could not be sent when due, with ", MaxInFlight(options),
                                    " under way: the rate was not reached"));
  }
  // A few more at the end than at the start are chance; a part of all calls is a queue.
  const int64_t queued = total.under_way_after - total.under_way_before;
  if (options.open_loop() && queued > std::max<int64_t>(10, total.started / 100)) {
    warnings.push_back(absl::StrCat("a queue has grown: ", Counted(total.under_way_after, "call"),
                                    " had no answer yet at the end, and the latencies leave them out"));
  }
  for (const BenchCall kind : kinds()) {
    const LatencyHistogram& latency = total.of(kind).latency;
    const int64_t delay = total.send_delay.AtPerMille(500);
    if (latency.count() > 0 && delay * 2 > latency.AtPerMille(500)) {
      warnings.push_back(absl::StrCat("normctl itself was late: it sent half of the calls ", LatencyText(delay),
                                      " or more after they were due, which the latencies count"));
      break;
    }
  }
  return warnings;
}

std::vector<std::string> BenchReport::notes() const {
  for (const BenchCall kind : kinds()) {
    if (total.of(kind).latency.count() > 0 && !total.of(kind).latency.HasTail(999)) {
      return {"P99.9 takes 10000 calls of a kind; '-' stands for fewer"};
    }
  }
  return {};
}

BenchReport MakeBenchReport(const BenchOptions& options, const BenchRecorder& recorder, int windows) {
  BenchReport report;
  report.options = options;
  report.messages = recorder.messages();
  for (int i = 0; i < windows; ++i) {
    report.windows.push_back(recorder.Window(i));
    if (i == 0) {
      report.total = report.windows.back();
    } else {
      report.total.Append(report.windows.back());
    }
  }
  std::vector<double> served;
  for (const BenchWindow& window : report.windows) served.push_back(static_cast<double>(window.ok()));
  report.throughput_spread = SpreadOf(served);
  for (const BenchCall kind : kBenchCalls) {
    std::vector<double> medians;
    for (const BenchWindow& window : report.windows) {
      const LatencyHistogram& latency = window.of(kind).latency;
      if (latency.count() > 0) medians.push_back(static_cast<double>(latency.AtPerMille(500)));
    }
    report.p50_spread = std::max(report.p50_spread, SpreadOf(medians));
  }
  return report;
}

std::string LatencyText(int64_t nanoseconds) {
  static constexpr std::array<std::pair<const char*, double>, 4> kUnits = {
      {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}}};
  for (const auto& [unit, scale] : kUnits) {
    const double value = static_cast<double>(nanoseconds) / scale;
    if (value >= 999.5 && scale < 1e9) continue;
    const int decimals = scale == 1 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    return absl::StrFormat("%.*f %s", decimals, value, unit);
  }
  return "";
}

std::string RateText(double per_second) {
  return per_second >= 999.5 ? absl::StrFormat("%.0f", per_second) : absl::StrFormat("%.3g", per_second);
}

std::string Counted(int64_t count, absl::string_view noun) {
  return absl::StrCat(count, " ", noun, count == 1 ? "" : "s");
}

}  // namespace normd::cli
