#ifndef NORMD_CLIENT_CLI_TOP_FRAME_H_
#define NORMD_CLIENT_CLI_TOP_FRAME_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "normd/admin.h"

// What `normctl top` shows: the difference between two looks at a server.
namespace normd::cli {

// What one method did between the two.
struct MethodRate {
  std::string method;
  int64_t calls = 0;
  // Of these, other than OK.
  int64_t errors = 0;
  double calls_per_second = 0;
  double errors_per_second = 0;
  double request_bytes_per_second = 0;
  double response_bytes_per_second = 0;
  // Of the calls between the two looks, in seconds; 0 if there were none.
  double p50_seconds = 0;
  double p99_seconds = 0;
};

struct LayerRate {
  LayerStatistics layer;
  double folds_per_second = 0;
};

struct ServerRate {
  // Between the two looks.
  double seconds = 0;
  // Cores' worth of time.
  double cpu = 0;
  double commits_per_second = 0;
  double updates_per_commit = 0;
  double commit_p50_seconds = 0;
  double commit_p99_seconds = 0;
  // The busiest first.
  std::vector<MethodRate> methods;
  std::vector<LayerRate> layers;
};

// A server that was started in between is compared with nothing: its counters began at 0.
ServerRate RateBetween(const ServerStatistics& before, const ServerStatistics& now);

// Of the durations in `now` that `before` (empty, or with the same bounds) does not have: how long the share `q` of
// them took at most, with a straight line through each bucket; 0 if there are none. What is in the last bucket counts
// as its lower bound.
double Quantile(const DurationDistribution& before, const DurationDistribution& now, double q);

// Lines that end with "\n".
std::string TopFrame(absl::string_view server, const ServerStatistics& before, const ServerStatistics& now);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_TOP_FRAME_H_
