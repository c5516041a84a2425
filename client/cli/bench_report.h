#ifndef NORMD_CLIENT_CLI_BENCH_REPORT_H_
#define NORMD_CLIENT_CLI_BENCH_REPORT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/cli/bench_options.h"
#include "client/cli/bench_stats.h"

namespace normd::cli {

// What came out of a benchmark, and what went in.
struct BenchReport {
  BenchOptions options;
  std::string server;
  absl::Duration timeout;

  // Those that were complete, and all of them as one.
  std::vector<BenchWindow> windows;
  BenchWindow total;
  // The first message of each code.
  std::map<absl::StatusCode, std::string> messages;

  // (greatest - least) / mean over the windows: of the calls that went well, and of their median latency (the worse of
  // the kinds).
  double throughput_spread = 0;
  double p50_spread = 0;
  bool windows_disagree() const { return throughput_spread > kTolerance || p50_spread > kTolerance; }
  static constexpr double kTolerance = 0.1;

  // Why the numbers may mislead, and what is missing among them; a sentence each.
  std::vector<std::string> warnings() const;
  std::vector<std::string> notes() const;
  // The kinds of calls that the options ask for.
  std::vector<BenchCall> kinds() const;
  absl::Duration TotalTime() const { return options.duration * static_cast<int64_t>(windows.size()); }
};

// Of the first `windows` windows of a run.
BenchReport MakeBenchReport(const BenchOptions& options, const BenchRecorder& recorder, int windows);

// Three digits and a unit: "812 us", "1.24 ms".
std::string LatencyText(int64_t nanoseconds);
// Three digits at least: "0.25", "12345".
std::string RateText(double per_second);
// "1 call", "2 calls".
std::string Counted(int64_t count, absl::string_view noun);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_REPORT_H_
