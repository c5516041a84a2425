#include "server/kernels/parallelism.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdint>
#include <thread>
#include <vector>

namespace normd::kernels {
namespace {

TEST(AvailableCoresTest, FollowsTheAffinityMask) {
  EXPECT_GE(AvailableCores(), 1);
  EXPECT_LE(AvailableCores(), static_cast<int>(std::thread::hardware_concurrency()));
  // On a thread of its own, since the mask would stay.
  std::thread([] {
    cpu_set_t now;
    ASSERT_EQ(sched_getaffinity(0, sizeof now, &now), 0);
    int cpu = 0;
    while (!CPU_ISSET(cpu, &now)) ++cpu;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
    EXPECT_EQ(AvailableCores(), 1);
  }).join();
}

TEST(ThreadsForTest, BySizeAndByTheCoresThatAreIdle) {
  constexpr int64_t kMiB = 1 << 20;
  struct Case {
    int64_t bytes;
    int cores;
    int busy;
    int want;
  };
  for (const Case& c : std::vector<Case>{{0, 8, 0, 1},
                                         {kMiB, 8, 0, 1},
                                         {8 * kMiB - 1, 8, 0, 1},
                                         {8 * kMiB, 8, 0, 2},
                                         {8 * kMiB, 1, 0, 1},
                                         {18 * kMiB, 8, 0, 4},
                                         {64 * kMiB, 8, 0, 8},
                                         {64 * kMiB, 8, 3, 5},
                                         {64 * kMiB, 8, 7, 1},
                                         {64 * kMiB, 8, 20, 1},
                                         {64 * kMiB, 8, -1, 8},
                                         {INT64_MAX, 8, 0, 8},
                                         {64 * kMiB, 0, 0, 1}}) {
    EXPECT_EQ(ThreadsFor(c.bytes, c.cores, c.busy), c.want)
        << c.bytes << " bytes, " << c.cores << " cores, " << c.busy << " busy";
  }
}

TEST(BusyCoresTest, CountsWhileALeaseLives) {
  BusyCores busy;
  EXPECT_EQ(busy.count(), 0);
  {
    const BusyCores::Lease one(&busy);
    const BusyCores::Lease two(&busy);
    EXPECT_EQ(busy.count(), 2);
  }
  EXPECT_EQ(busy.count(), 0);
}

}  // namespace
}  // namespace normd::kernels
