#ifndef NORMD_TESTS_BENCHMARKS_RPC_CLOSED_LOOP_H_
#define NORMD_TESTS_BENCHMARKS_RPC_CLOSED_LOOP_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/benchmarks/rpc/caller.h"

namespace normd::benchmarks {

struct LoopOptions {
  // Lanes; each starts its next call when its last one is answered.
  int concurrency = 1;
  // Not counted.
  double warm_up_seconds = 0.5;
  // Measure so long, and longer until min_requests are counted, but not beyond max_seconds.
  double seconds = 2;
  int64_t min_requests = 0;
  double max_seconds = 120;
  // Not 0: count exactly so many requests, however long they take.
  int64_t exact_requests = 0;
  // Runs when the warm-up is over, and then about fifty times a second with the requests counted so far.
  std::function<void()> on_start = [] {};
  std::function<void(int64_t)> on_progress = [](int64_t) {};
  // Ends the loop early, as if the time were over.
  const std::atomic<bool>* stop = nullptr;
};

struct LoopResult {
  int64_t requests = 0;
  // From the start of the first request that counts to the end of the last one.
  double seconds = 0;
  // Ascending.
  std::vector<float> latencies_us;

  // The nearest rank: a latency that at most a part 1 - q of the requests exceeded. REQUIRES: requests >= 1.
  double Quantile(double q) const;
};

// Calls until the options say enough. The error of the first call that fails; INTERNAL: nothing was measured.
absl::StatusOr<LoopResult> RunClosedLoop(Caller* caller, const LoopOptions& options);

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_RPC_CLOSED_LOOP_H_
