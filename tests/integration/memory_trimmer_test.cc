#include "server/app/memory_trimmer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <utility>

namespace normd::app {
namespace {

// A trimmer whose time passes when the test says so.
class TrimmerTest : public ::testing::Test {
 protected:
  ~TrimmerTest() override { EXPECT_FALSE(timed_out_); }

  MemoryTrimmer::Wait Wait() {
    return [this](std::unique_lock<std::mutex>& lock, std::condition_variable& changed, absl::Duration delay,
                  const std::function<bool()>& stop) {
      EXPECT_EQ(delay, absl::Seconds(10));
      {
        const std::lock_guard<std::mutex> own(mutex_);
        lock_ = lock.mutex();
        wake_ = &changed;
        ++waits_;
      }
      changed_.notify_all();
      changed.wait(lock, [&] { return stop() || over_; });
      return !stop() && std::exchange(over_, false);
    };
  }
  MemoryTrimmer::Trim Trim() {
    return [this](absl::Duration unused) {
      const std::lock_guard<std::mutex> own(mutex_);
      if (unused == absl::ZeroDuration()) {
        ++trims_;
      } else {
        EXPECT_EQ(unused, absl::Seconds(10));
        ++partial_trims_;
      }
      changed_.notify_all();
      return all_given_back_;
    };
  }
  // Until the trimmer has begun to wait for the `count`th time.
  void AwaitWaits(int count) {
    Await([&] { return waits_ >= count; });
  }
  void AwaitTrims(int count) {
    Await([&] { return trims_ >= count; });
  }
  void TimePasses() {
    std::unique_lock<std::mutex> own(mutex_);
    std::mutex* const mutex = lock_;
    std::condition_variable* const wake = wake_;
    own.unlock();
    {
      const std::lock_guard<std::mutex> lock(*mutex);
      over_ = true;
    }
    wake->notify_all();
  }
  int trims() {
    const std::lock_guard<std::mutex> own(mutex_);
    return trims_;
  }
  // Of what has not been used for a while.
  int partial_trims() {
    const std::lock_guard<std::mutex> own(mutex_);
    return partial_trims_;
  }
  int waits() {
    const std::lock_guard<std::mutex> own(mutex_);
    return waits_;
  }
  void set_all_given_back(bool value) {
    const std::lock_guard<std::mutex> own(mutex_);
    all_given_back_ = value;
  }

 private:
  void Await(const std::function<bool()>& condition) {
    std::unique_lock<std::mutex> own(mutex_);
    timed_out_ |= !changed_.wait_for(own, std::chrono::seconds(60), condition);
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  int waits_ = 0;
  int trims_ = 0;
  int partial_trims_ = 0;
  bool all_given_back_ = true;
  bool timed_out_ = false;
  std::mutex* lock_ = nullptr;
  std::condition_variable* wake_ = nullptr;
  // Guarded by *lock_.
  bool over_ = false;
};

TEST_F(TrimmerTest, TrimsOnceWhenTheCallsHaveStopped) {
  MemoryTrimmer trimmer(absl::Seconds(10), Trim(), Wait());
  trimmer.OnCall();
  AwaitWaits(1);
  TimePasses();
  AwaitTrims(1);
  // No time is waited for until there is another call.
  trimmer.OnCall();
  AwaitWaits(2);
  EXPECT_EQ(waits(), 2);
  EXPECT_EQ(trims(), 1);
  TimePasses();
  AwaitTrims(2);
}

TEST_F(TrimmerTest, WhileCallsComeOnlyWhatIsUnusedForLongIsTrimmed) {
  MemoryTrimmer trimmer(absl::Seconds(10), Trim(), Wait());
  trimmer.OnCall();
  AwaitWaits(1);
  for (int i = 2; i < 5; ++i) {
    trimmer.OnCall();
    trimmer.OnCall();
    TimePasses();
    AwaitWaits(i);
    EXPECT_EQ(trims(), 0);
    EXPECT_EQ(partial_trims(), i - 1);
  }
  TimePasses();
  AwaitTrims(1);
  EXPECT_EQ(partial_trims(), 3);
}

TEST_F(TrimmerTest, WhatIsStillInUseIsComeBackFor) {
  set_all_given_back(false);
  MemoryTrimmer trimmer(absl::Seconds(10), Trim(), Wait());
  trimmer.OnCall();
  AwaitWaits(1);
  TimePasses();
  AwaitWaits(2);
  EXPECT_EQ(trims(), 1);
  set_all_given_back(true);
  TimePasses();
  AwaitTrims(2);
}

TEST_F(TrimmerTest, EndsWhereverItIs) {
  { const MemoryTrimmer asleep(absl::Seconds(10), Trim(), Wait()); }
  EXPECT_EQ(waits(), 0);
  {
    MemoryTrimmer waiting(absl::Seconds(10), Trim(), Wait());
    waiting.OnCall();
    AwaitWaits(1);
  }
  EXPECT_EQ(trims(), 0);
}

TEST(MemoryTrimmer, WithRealTime) {
  std::mutex mutex;
  std::condition_variable changed;
  bool trimmed = false;
  MemoryTrimmer trimmer(absl::Milliseconds(1), [&](absl::Duration) {
    const std::lock_guard<std::mutex> lock(mutex);
    trimmed = true;
    changed.notify_all();
    return true;
  });
  trimmer.OnCall();
  std::unique_lock<std::mutex> lock(mutex);
  EXPECT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [&] { return trimmed; }));
}

}  // namespace
}  // namespace normd::app
