#ifndef NORMD_CLIENT_CLI_BENCH_STATS_H_
#define NORMD_CLIENT_CLI_BENCH_STATS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/bench_options.h"
#include "client/cli/histogram.h"

namespace normd::cli {

// When a run's windows are, in nanoseconds of the steady clock: the warm-up from `start`, then windows without a gap.
struct BenchTimeline {
  int64_t start_ns = 0;
  int64_t warmup_ns = 0;
  int64_t window_ns = 0;
  int windows = 0;

  static BenchTimeline From(int64_t start_ns, const BenchOptions& options);
  int64_t end_ns() const { return start_ns + warmup_ns + windows * window_ns; }
  // -1 in the warm-up, `windows` after the end.
  int WindowAt(int64_t t_ns) const;
};

// The calls of one kind that ended in a window.
struct BenchCallStats {
  // Of the calls that went well, in nanoseconds. A closed loop counts from the start of the call; an open one from the
  // moment when the call was due, however late it was made.
  LatencyHistogram latency;
  std::map<absl::StatusCode, int64_t> errors;
  // Elements, of the calls that went well.
  int64_t bytes_sent = 0;
  int64_t bytes_received = 0;

  int64_t ok() const { return latency.count(); }
  int64_t failed() const;
  void Merge(const BenchCallStats& other);
};

// What happened in a window, or in several. Every call that is due is started or dropped, and every one that is started
// ends: under_way_before + started = sum of ok and failed + under_way_after.
struct BenchWindow {
  std::array<BenchCallStats, kBenchCalls.size()> calls;
  // Calls by the time when they were due, which in a closed loop is when they started.
  int64_t started = 0;
  int64_t not_sent = 0;
  int64_t under_way_before = 0;
  int64_t under_way_after = 0;
  // Open loop: from when a call was due to when it was sent, in nanoseconds; large values tell of a busy client.
  LatencyHistogram send_delay;

  const BenchCallStats& of(BenchCall call) const { return calls[static_cast<std::size_t>(call)]; }
  int64_t ok() const;
  int64_t failed() const;
  std::map<absl::StatusCode, int64_t> errors() const;
  int64_t bytes_sent() const;
  int64_t bytes_received() const;
  // `next` follows this window directly.
  void Append(const BenchWindow& next);
};

// Takes in what happens during a run, by its time. Thread-safe.
class BenchRecorder {
 public:
  explicit BenchRecorder(const BenchTimeline& timeline);

  const BenchTimeline& timeline() const { return timeline_; }

  void Started(int64_t due_ns, int64_t sent_ns);
  void NotSent(int64_t due_ns);
  // `received`: bytes, or how the call failed.
  void Ended(BenchCall call, int64_t due_ns, int64_t ended_ns, int64_t bytes_sent,
             const absl::StatusOr<int64_t>& received);

  // -1 is the warm-up; the window after the last holds what ended late.
  BenchWindow Window(int window) const;
  // The first failure of each code, in the whole run; the very first one.
  std::map<absl::StatusCode, std::string> messages() const;
  absl::Status first_error() const;

 private:
  // In windows_.
  static std::size_t PlaceOf(int window) { return static_cast<std::size_t>(int64_t{window} + 1); }
  BenchWindow& At(int64_t t_ns) { return windows_[PlaceOf(timeline_.WindowAt(t_ns))]; }

  const BenchTimeline timeline_;
  mutable std::mutex mutex_;
  // All guarded by mutex_. The warm-up first; those under way are left to Window().
  std::vector<BenchWindow> windows_;
  std::map<absl::StatusCode, std::string> messages_;
  absl::Status first_error_;
};

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_STATS_H_
