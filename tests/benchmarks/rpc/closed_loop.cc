#include "tests/benchmarks/rpc/closed_loop.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/status/status.h"

namespace normd::benchmarks {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

class ClosedLoop {
 public:
  ClosedLoop(Caller* caller, const LoopOptions& options)
      : caller_(caller), options_(options), lanes_(static_cast<std::size_t>(options.concurrency)) {}

  absl::StatusOr<LoopResult> Run() {
    live_ = options_.concurrency;
    std::vector<std::thread> threads;
    for (int lane = 0; lane < options_.concurrency; ++lane) {
      if (caller_->blocking()) {
        threads.emplace_back([this, lane] { RunBlocking(lane); });
      } else {
        Start(lane);
      }
    }
    Supervise();
    phase_ = Phase::kStopping;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      idle_.wait(lock, [this] { return live_ == 0; });
    }
    for (std::thread& thread : threads) thread.join();
    if (!error_.ok()) return error_;
    return Collect();
  }

 private:
  enum class Phase { kWarmingUp, kMeasuring, kStopping };

  // Used by one call at a time. Padded, so that lanes do not share a cache line.
  struct alignas(64) Lane {
    Clock::time_point call_start;
    bool counts = false;
    Clock::time_point first_start = Clock::time_point::max();
    Clock::time_point last_end = Clock::time_point::min();
    std::vector<float> latencies_us;
  };

  // Whether the lane goes on; if so, its next call begins now.
  bool Next(Lane* lane) {
    const Phase phase = phase_;
    if (phase == Phase::kStopping) return false;
    lane->counts = phase == Phase::kMeasuring;
    if (lane->counts && options_.exact_requests > 0 && started_.fetch_add(1) >= options_.exact_requests) return false;
    lane->call_start = Clock::now();
    return true;
  }

  void Finish(Lane* lane, const absl::Status& status) {
    const Clock::time_point now = Clock::now();
    if (!status.ok()) {
      const std::lock_guard<std::mutex> lock(mutex_);
      error_.Update(status);
      phase_ = Phase::kStopping;
      return;
    }
    if (!lane->counts) return;
    lane->latencies_us.push_back(std::chrono::duration<float, std::micro>(now - lane->call_start).count());
    lane->first_start = std::min(lane->first_start, lane->call_start);
    lane->last_end = now;
    counted_.fetch_add(1, std::memory_order_relaxed);
  }

  void Start(int index) {
    Lane* const lane = &lanes_[static_cast<std::size_t>(index)];
    if (!Next(lane)) return Leave();
    caller_->Call(index, [this, index, lane](const absl::Status& status) {
      Finish(lane, status);
      Start(index);
    });
  }

  void RunBlocking(int index) {
    Lane* const lane = &lanes_[static_cast<std::size_t>(index)];
    while (Next(lane)) {
      caller_->Call(index, [this, lane](const absl::Status& status) { Finish(lane, status); });
    }
    Leave();
  }

  void Leave() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--live_ == 0) idle_.notify_all();
  }

  // Waits, with a look at everything fifty times a second, until `enough`, or until there is nothing left to wait for.
  template <typename Enough>
  void WaitUntil(const Enough& enough) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!enough() && error_.ok() && live_ > 0 && (options_.stop == nullptr || !*options_.stop)) {
      idle_.wait_for(lock, std::chrono::milliseconds(20));
    }
  }

  void Supervise() {
    const auto elapsed = [](Clock::time_point since) { return Seconds(Clock::now() - since).count(); };
    const Clock::time_point warm_up = Clock::now();
    WaitUntil([&] { return elapsed(warm_up) >= options_.warm_up_seconds; });
    options_.on_start();
    const Clock::time_point start = Clock::now();
    Phase warming_up = Phase::kWarmingUp;
    phase_.compare_exchange_strong(warming_up, Phase::kMeasuring);
    WaitUntil([&] {
      const int64_t counted = counted_.load(std::memory_order_relaxed);
      options_.on_progress(counted);
      if (options_.exact_requests > 0) return false;
      const double seconds = elapsed(start);
      return seconds >= options_.max_seconds || (seconds >= options_.seconds && counted >= options_.min_requests);
    });
  }

  absl::StatusOr<LoopResult> Collect() {
    LoopResult result;
    Clock::time_point first = Clock::time_point::max();
    Clock::time_point last = Clock::time_point::min();
    for (const Lane& lane : lanes_) {
      first = std::min(first, lane.first_start);
      last = std::max(last, lane.last_end);
      result.latencies_us.insert(result.latencies_us.end(), lane.latencies_us.begin(), lane.latencies_us.end());
    }
    if (result.latencies_us.empty()) return absl::InternalError("no call was answered while it was measured");
    std::sort(result.latencies_us.begin(), result.latencies_us.end());
    result.requests = static_cast<int64_t>(result.latencies_us.size());
    result.seconds = Seconds(last - first).count();
    return result;
  }

  Caller* const caller_;
  const LoopOptions& options_;
  std::vector<Lane> lanes_;
  std::atomic<Phase> phase_ = Phase::kWarmingUp;
  std::atomic<int64_t> started_ = 0;
  std::atomic<int64_t> counted_ = 0;
  std::mutex mutex_;
  std::condition_variable idle_;
  int live_ = 0;
  absl::Status error_;
};

}  // namespace

double LoopResult::Quantile(double q) const {
  const auto rank = static_cast<std::size_t>(std::ceil(q * static_cast<double>(latencies_us.size())));
  return latencies_us[std::clamp<std::size_t>(rank, 1, latencies_us.size()) - 1];
}

absl::StatusOr<LoopResult> RunClosedLoop(Caller* caller, const LoopOptions& options) {
  return ClosedLoop(caller, options).Run();
}

}  // namespace normd::benchmarks
