#include "client/cli/bench_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "client/cli/bench_stats.h"
#include "client/cli/bench_target.h"

namespace normd::cli {
namespace {

constexpr int64_t kMs = 1'000'000;

// Answers on a thread of its own, as gRPC does: with `answer` at once, or when it is let go.
class FakeTarget : public BenchTarget {
 public:
  explicit FakeTarget(std::function<absl::StatusOr<int64_t>(int64_t call)> answer, bool hold = false)
      : answer_(std::move(answer)), hold_(hold), thread_([this] { Work(); }) {}
  ~FakeTarget() override {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  FakeTarget(const FakeTarget&) = delete;
  FakeTarget& operator=(const FakeTarget&) = delete;

  void Start(const BenchStep& step, std::size_t lane, Done done) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    held_.push_back(std::move(done));
    ++steps_[{step.shape, step.call}];
    ++lanes_[lane];
    changed_.notify_all();
  }

  void LetGo() {
    const std::lock_guard<std::mutex> lock(mutex_);
    hold_ = false;
    changed_.notify_all();
  }
  std::size_t held() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return held_.size();
  }
  // How often each was called. To be read when the load is over.
  const std::map<std::pair<std::size_t, BenchCall>, int>& steps() const { return steps_; }
  const std::map<std::size_t, int>& lanes() const { return lanes_; }

 private:
  void Work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (int64_t call = 0;; ++call) {
      changed_.wait(lock, [this] { return closed_ || (!hold_ && !held_.empty()); });
      if (closed_) return;
      const Done done = std::move(held_.front());
      held_.pop_front();
      lock.unlock();
      done(answer_(call));
      lock.lock();
    }
  }

  const std::function<absl::StatusOr<int64_t>(int64_t)> answer_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool hold_;
  bool closed_ = false;
  std::deque<Done> held_;
  std::map<std::pair<std::size_t, BenchCall>, int> steps_;
  std::map<std::size_t, int> lanes_;
  std::thread thread_;
};

absl::StatusOr<int64_t> Answered(int64_t /*call*/) { return 8; }

BenchOptions Options(absl::Duration duration, int windows) {
  BenchOptions options;
  options.shapes = {{1, 2}};
  options.warmup = absl::ZeroDuration();
  options.duration = duration;
  options.windows = windows;
  return options;
}

bool Always(int64_t /*now_ns*/) { return true; }

// Everything from the warm-up to what ended late, as one.
BenchWindow WholeRun(const BenchRecorder& recorder) {
  BenchWindow all = recorder.Window(-1);
  for (int i = 0; i <= recorder.timeline().windows; ++i) all.Append(recorder.Window(i));
  return all;
}

TEST(ClosedLoopTest, KeepsItsCallsUnderWay) {
  BenchOptions options = Options(absl::Milliseconds(100), 2);
  options.concurrency = 3;
  FakeTarget target(Answered, /*hold=*/true);
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds(), options));
  bool looked = false;
  RunBenchLoad(options, &target, &recorder, [&](int64_t /*now_ns*/) {
    if (!looked) {
      EXPECT_EQ(target.held(), 3U) << "all are started, and none beyond";
    }
    looked = true;
    target.LetGo();
    return true;
  });
  EXPECT_TRUE(looked);
  const BenchWindow all = WholeRun(recorder);
  EXPECT_GT(all.started, 3) << "answers start the next calls";
  EXPECT_EQ(all.ok(), all.started);
  EXPECT_EQ(all.under_way_after, 0);
  EXPECT_EQ(recorder.Window(2).started, 0) << "nothing starts after the end";
  EXPECT_EQ(target.lanes().size(), 3U);
}

TEST(ClosedLoopTest, StopsWhenTold) {
  BenchOptions options = Options(absl::Hours(1), 1);
  options.concurrency = 2;
  FakeTarget target(Answered);
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds(), options));
  RunBenchLoad(options, &target, &recorder, [](int64_t /*now_ns*/) { return false; });
  EXPECT_EQ(WholeRun(recorder).under_way_after, 0);
}

TEST(ClosedLoopTest, DoesNotRunInACircleWhenTheServerIsGone) {
  BenchOptions options = Options(absl::Milliseconds(150), 1);
  options.concurrency = 2;
  FakeTarget target([](int64_t /*call*/) { return absl::UnavailableError("gone"); });
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds(), options));
  int64_t looks = 0;
  RunBenchLoad(options, &target, &recorder, [&](int64_t /*now_ns*/) { return ++looks > 0; });
  const BenchWindow all = WholeRun(recorder);
  EXPECT_EQ(all.failed(), all.started);
  EXPECT_GE(all.started, 2);
  EXPECT_LE(all.started, 2 + 2 * looks) << "each lane once, and once after every look";
  EXPECT_EQ(recorder.first_error(), absl::UnavailableError("gone"));
}

TEST(ClosedLoopTest, GoesOnWhenTheServerIsBackAndAfterOtherFailures) {
  BenchOptions options = Options(absl::Milliseconds(300), 1);
  options.concurrency = 2;
  FakeTarget target([](int64_t call) -> absl::StatusOr<int64_t> {
    if (call < 2) return absl::UnavailableError("gone");
    if (call < 5) return absl::InternalError("broken");
    return 8;
  });
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds(), options));
  RunBenchLoad(options, &target, &recorder, Always);
  const BenchWindow all = WholeRun(recorder);
  EXPECT_EQ(all.errors(), (std::map<absl::StatusCode, int64_t>{{absl::StatusCode::kUnavailable, 2},
                                                               {absl::StatusCode::kInternal, 3}}));
  EXPECT_EQ(all.ok(), all.started - 5);
  EXPECT_GT(all.ok(), 0);
}

TEST(ClosedLoopTest, MixesAsTheOptionsSay) {
  BenchOptions options = Options(absl::Milliseconds(50), 1);
  options.shapes = {{1, 2}, {4, 2}};
  options.train_fraction = 0.25;
  FakeTarget target(Answered);
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds(), options));
  RunBenchLoad(options, &target, &recorder, Always);
  std::map<std::pair<std::size_t, BenchCall>, int> want;
  const int64_t started = WholeRun(recorder).started;
  for (int64_t i = 0; i < started; ++i) {
    const BenchStep step = StepAt(options, i);
    ++want[{step.shape, step.call}];
  }
  EXPECT_EQ(target.steps(), want);
}

TEST(OpenLoopTest, KeepsItsScheduleAndCountsWhatItCannotSend) {
  BenchOptions options = Options(absl::Milliseconds(300), 2);
  options.rate = 200;
  options.max_in_flight = 4;
  FakeTarget target(Answered, /*hold=*/true);
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds(), options));
  RunBenchLoad(options, &target, &recorder, [&](int64_t now_ns) {
    EXPECT_LE(target.held(), 4U);
    if (now_ns > recorder.timeline().end_ns()) target.LetGo();
    return true;
  });
  for (int i = 0; i < 2; ++i) {
    const BenchWindow window = recorder.Window(i);
    EXPECT_EQ(window.started + window.not_sent, 60) << "300 ms of 200 per second";
    EXPECT_EQ(window.ok(), 0);
  }
  EXPECT_EQ(recorder.Window(0).started, 4);
  EXPECT_EQ(recorder.Window(1).started, 0);
  EXPECT_EQ(recorder.Window(1).under_way_after, 4);
  EXPECT_EQ(recorder.Window(2).ok(), 4) << "they end, but late";
}

TEST(OpenLoopTest, LatencyCountsFromWhenACallWasDue) {
  BenchOptions options = Options(absl::Milliseconds(400), 1);
  options.rate = 100;
  FakeTarget target(Answered);
  // A client that gets to its schedule 200 ms late, whatever the reason.
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds() - 200 * kMs, options));
  RunBenchLoad(options, &target, &recorder, Always);
  const BenchWindow all = WholeRun(recorder);
  EXPECT_EQ(all.started + all.not_sent, 40);
  EXPECT_EQ(all.ok(), all.started);
  EXPECT_GE(all.of(BenchCall::kInfer).latency.max(), 200 * kMs);
  EXPECT_GE(all.send_delay.max(), 200 * kMs);
}

TEST(OpenLoopTest, WhatIsDueAfterTheEndOrNeverReachedIsNotSent) {
  BenchOptions options = Options(absl::Milliseconds(50), 2);
  options.rate = 1000;
  FakeTarget target(Answered);
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds() - 1000 * kMs, options));
  RunBenchLoad(options, &target, &recorder, Always);
  EXPECT_EQ(WholeRun(recorder).started, 0);
  EXPECT_EQ(WholeRun(recorder).not_sent, 100);
}

TEST(OpenLoopTest, StopsWhenTold) {
  BenchOptions options = Options(absl::Hours(1), 1);
  options.rate = 0.001;
  FakeTarget target(Answered);
  BenchRecorder recorder(BenchTimeline::From(SteadyNanoseconds(), options));
  RunBenchLoad(options, &target, &recorder, [](int64_t /*now_ns*/) { return false; });
  EXPECT_EQ(WholeRun(recorder).not_sent, 0) << "what was not due yet is not missing";
}

}  // namespace
}  // namespace normd::cli
