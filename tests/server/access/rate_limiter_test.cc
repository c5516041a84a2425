#include "server/access/rate_limiter.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "tests/fake_clock.h"

namespace normd::access {
namespace {

TEST(RateLimiter, ASecondsWorthAtOnceAndThenTheRate) {
  tests::FakeClock clock;
  RateLimiter limiter(10, clock);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(limiter.Take(), absl::ZeroDuration()) << i;
  EXPECT_EQ(limiter.Take(), absl::Milliseconds(100));
  clock.Advance(absl::Milliseconds(60));
  EXPECT_EQ(limiter.Take(), absl::Milliseconds(40));
  clock.Advance(absl::Milliseconds(40));
  EXPECT_EQ(limiter.Take(), absl::ZeroDuration());
  EXPECT_GT(limiter.Take(), absl::ZeroDuration());
}

TEST(RateLimiter, AQuietTimeIsWorthASecondAtMost) {
  tests::FakeClock clock;
  RateLimiter limiter(5, clock);
  clock.Advance(absl::Hours(1));
  int taken = 0;
  while (limiter.Take() == absl::ZeroDuration()) ++taken;
  EXPECT_EQ(taken, 5);
}

TEST(RateLimiter, LessThanOneCallASecond) {
  tests::FakeClock clock;
  RateLimiter limiter(0.5, clock);
  EXPECT_EQ(limiter.Take(), absl::ZeroDuration());
  EXPECT_EQ(limiter.Take(), absl::Seconds(2));
  clock.Advance(absl::Seconds(2));
  EXPECT_EQ(limiter.Take(), absl::ZeroDuration());
}

TEST(RateLimiter, ThreadsShareTheCalls) {
  tests::FakeClock clock;
  RateLimiter limiter(100, clock);
  std::atomic<int> taken = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int call = 0; call < 50; ++call) taken += limiter.Take() == absl::ZeroDuration() ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(taken, 100);
}

}  // namespace
}  // namespace normd::access
