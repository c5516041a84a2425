#include "server/kernels/parallelism.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/kernels/cgroup.h"

namespace normd::kernels {
namespace {

struct CgroupCase {
  std::string name;
  // Path below the root -> content.
  std::map<std::string, std::string> files;
  std::optional<double> want;
};

class CgroupCoresTest : public ::testing::TestWithParam<CgroupCase> {};

TEST_P(CgroupCoresTest, ReadsTheQuota) {
  const std::filesystem::path root = std::filesystem::path(::testing::TempDir()) / ("normd_cgroup_" + GetParam().name);
  std::filesystem::remove_all(root);
  std::filesystem::create_directories(root);
  for (const auto& [path, content] : GetParam().files) {
    std::filesystem::create_directories((root / path).parent_path());
    std::ofstream(root / path) << content;
  }
  EXPECT_EQ(CgroupCores(root.string()), GetParam().want);
  std::filesystem::remove_all(root);
}

constexpr char kSelf[] = "proc/self/cgroup";
INSTANTIATE_TEST_SUITE_P(
    Systems, CgroupCoresTest,
    ::testing::Values(
        CgroupCase{"nothing", {}, std::nullopt},
        CgroupCase{"v2_container", {{kSelf, "0::/\n"}, {"sys/fs/cgroup/cpu.max", "150000 100000\n"}}, 1.5},
        CgroupCase{"v2_no_quota", {{kSelf, "0::/\n"}, {"sys/fs/cgroup/cpu.max", "max 100000\n"}}, std::nullopt},
        CgroupCase{"v2_parent_is_tighter",
                   {{kSelf, "0::/a/b\n"},
                    {"sys/fs/cgroup/a/b/cpu.max", "400000 100000\n"},
                    {"sys/fs/cgroup/a/cpu.max", "200000 100000\n"},
                    {"sys/fs/cgroup/cpu.max", "max 100000\n"}},
                   2.0},
        CgroupCase{"v1",
                   {{kSelf, "5:memory:/x\n4:cpu,cpuacct:/docker/0123\n0::/\n"},
                    {"sys/fs/cgroup/cpu,cpuacct/docker/0123/cpu.cfs_quota_us", "50000\n"},
                    {"sys/fs/cgroup/cpu,cpuacct/docker/0123/cpu.cfs_period_us", "100000\n"}},
                   0.5},
        CgroupCase{"v1_path_of_the_host",
                   {{kSelf, "4:cpu,cpuacct:/docker/0123\n"},
                    {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n"},
                    {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}},
                   3.0},
        CgroupCase{"v1_no_quota",
                   {{kSelf, "4:cpu:/\n"},
                    {"sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"},
                    {"sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}},
                   std::nullopt},
        CgroupCase{"v1_cpuset_is_not_cpu",
                   {{kSelf, "4:cpuset:/\n"},
                    {"sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "100000\n"},
                    {"sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n"}},
                   std::nullopt},
        CgroupCase{"garbage", {{kSelf, "what\n::\n0::/\n"}, {"sys/fs/cgroup/cpu.max", "many few\n"}}, std::nullopt},
        CgroupCase{"zero_period", {{kSelf, "0::/\n"}, {"sys/fs/cgroup/cpu.max", "1000 0\n"}}, std::nullopt}),
    [](const ::testing::TestParamInfo<CgroupCase>& tested) { return tested.param.name; });

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
