#include "client/cli/bench_load.h"

#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace normd::cli {
namespace {

constexpr std::chrono::milliseconds kLook(20);

// The calls that both loops make, and how many of them are under way.
class Calls {
 public:
  Calls(const BenchOptions& options, BenchTarget* target, BenchRecorder* recorder)
      : options_(options), target_(*target), recorder_(*recorder) {}

  // Starts the next call of the run. `ended` runs when it has been recorded; the call counts as under way until then.
  void Start(std::size_t lane, int64_t due_ns, int64_t sent_ns, std::function<void(const absl::Status&)> ended) {
    const BenchStep step = StepAt(options_, next_.fetch_add(1, std::memory_order_relaxed));
    Add(1);
    recorder_.Started(due_ns, sent_ns);
    target_.Start(step, lane, [this, step, due_ns, ended = std::move(ended)](const absl::StatusOr<int64_t>& received) {
      recorder_.Ended(step.call, due_ns, SteadyNanoseconds(), options_.BytesOf(step.shape), received);
      ended(received.status());
      Add(-1);
    });
  }

  int64_t under_way() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return under_way_;
  }

 private:
  // With a lock, so that whoever reads 0 knows that the last callback has let go of this.
  void Add(int64_t count) {
    const std::lock_guard<std::mutex> lock(mutex_);
    under_way_ += count;
  }

  const BenchOptions& options_;
  BenchTarget& target_;
  BenchRecorder& recorder_;
  std::atomic<int64_t> next_{0};
  mutable std::mutex mutex_;
  int64_t under_way_ = 0;  // Guarded by mutex_.
};

class ClosedLoop {
 public:
  ClosedLoop(const BenchOptions& options, BenchTarget* target, BenchRecorder* recorder)
      : options_(options), end_ns_(recorder->timeline().end_ns()), calls_(options, target, recorder) {}

  void Run(const BenchWatch& watch) {
    for (int lane = 0; lane < options_.concurrency; ++lane) Start(static_cast<std::size_t>(lane));
    do {
      std::this_thread::sleep_for(kLook);
      if (!watch(SteadyNanoseconds())) stop_ = true;
      for (const std::size_t lane : TakePaused()) Start(lane);
      // In this order: a lane is paused before its call is no longer under way.
    } while (calls_.under_way() > 0 || has_paused());
  }

 private:
  std::vector<std::size_t> TakePaused() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::exchange(paused_, {});
  }

  bool has_paused() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return !paused_.empty();
  }

  void Start(std::size_t lane) {
    const int64_t now = SteadyNanoseconds();
    if (stop_ || now >= end_ns_) return;
    calls_.Start(lane, now, now, [this, lane](const absl::Status& status) {
      if (status.code() != absl::StatusCode::kUnavailable) return Start(lane);
      const std::lock_guard<std::mutex> lock(mutex_);
      paused_.push_back(lane);
    });
  }

  const BenchOptions& options_;
  const int64_t end_ns_;
  Calls calls_;
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::vector<std::size_t> paused_;  // Guarded by mutex_.
};

class OpenLoop {
 public:
  OpenLoop(const BenchOptions& options, BenchTarget* target, BenchRecorder* recorder)
      : options_(options), recorder_(*recorder), calls_(options, target, recorder) {}

  void Run(const BenchWatch& watch) {
    std::thread scheduler([this] { Schedule(); });
    do {
      std::this_thread::sleep_for(kLook);
      if (!watch(SteadyNanoseconds())) stop_ = true;
    } while (!scheduled_ || calls_.under_way() > 0);
    scheduler.join();
  }

 private:
  void Schedule() {
#if defined(__linux__)
    // The kernel may wake a thread 50 us late unless asked not to, which would count as latency.
    prctl(PR_SET_TIMERSLACK, 1);
#endif
    const BenchTimeline& timeline = recorder_.timeline();
    const int64_t most = MaxInFlight(options_);
    for (int64_t i = 0;; ++i) {
      const int64_t due = timeline.start_ns + std::llround(static_cast<double>(i) * 1e9 / options_.rate);
      if (due >= timeline.end_ns()) break;
      const int64_t now = WaitUntil(due);
      if (stop_) break;
      if (now >= timeline.end_ns() || calls_.under_way() >= most) {
        recorder_.NotSent(due);
      } else {
        calls_.Start(static_cast<std::size_t>(i), due, now, [](const absl::Status& /*status*/) {});
      }
    }
    scheduled_ = true;
  }

  // Returns the time, which is `due` or later unless the run is to stop.
  int64_t WaitUntil(int64_t due) const {
    int64_t now = SteadyNanoseconds();
    while (now < due && !stop_) {
      std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(std::chrono::nanoseconds(due - now), kLook));
      now = SteadyNanoseconds();
    }
    return now;
  }

  const BenchOptions& options_;
  BenchRecorder& recorder_;
  Calls calls_;
  std::atomic<bool> stop_{false};
  std::atomic<bool> scheduled_{false};
};

}  // namespace

int64_t SteadyNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

void RunBenchLoad(const BenchOptions& options, BenchTarget* target, BenchRecorder* recorder, const BenchWatch& watch) {
  if (options.open_loop()) {
    OpenLoop(options, target, recorder).Run(watch);
  } else {
    ClosedLoop(options, target, recorder).Run(watch);
  }
}

}  // namespace normd::cli
