#ifndef NORMD_CLIENT_CLI_BENCH_PROGRESS_H_
#define NORMD_CLIENT_CLI_BENCH_PROGRESS_H_

#include <cstdint>
#include <string>

#include "client/cli/bench_stats.h"

namespace normd::cli {

// "window 2/3  3.1 s  12345 ok/s  p50 812 us  p99 2.10 ms", and the errors if there are any: how far a run is at
// `now_ns`.
std::string BenchProgressLine(const BenchRecorder& recorder, int64_t now_ns);

// That line on stderr, rewritten in place a few times a second, if stderr is a terminal that can; otherwise nothing.
class BenchProgress {
 public:
  BenchProgress();
  // Leaves the line empty.
  ~BenchProgress();
  BenchProgress(const BenchProgress&) = delete;
  BenchProgress& operator=(const BenchProgress&) = delete;

  void Show(const BenchRecorder& recorder, int64_t now_ns);

 private:
  const bool visible_;
  int64_t shown_ns_ = 0;
};

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_PROGRESS_H_
