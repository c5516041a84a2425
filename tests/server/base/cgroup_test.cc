#include "server/base/cgroup.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>

namespace normd::base {
namespace {

struct CgroupCase {
  std::string name;
  // Path below the root -> content.
  std::map<std::string, std::string> files;
  std::optional<double> want_cores;
  std::optional<int64_t> want_bytes = std::nullopt;
};

class CgroupTest : public ::testing::TestWithParam<CgroupCase> {};

TEST_P(CgroupTest, ReadsTheLimits) {
  const std::filesystem::path root = std::filesystem::path(::testing::TempDir()) / ("normd_cgroup_" + GetParam().name);
  std::filesystem::remove_all(root);
  std::filesystem::create_directories(root);
  for (const auto& [path, content] : GetParam().files) {
    std::filesystem::create_directories((root / path).parent_path());
    std::ofstream(root / path) << content;
  }
  EXPECT_EQ(CgroupCores(root.string()), GetParam().want_cores);
  EXPECT_EQ(CgroupMemoryBytes(root.string()), GetParam().want_bytes);
  std::filesystem::remove_all(root);
}

constexpr char kSelf[] = "proc/self/cgroup";
INSTANTIATE_TEST_SUITE_P(
    Systems, CgroupTest,
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
        CgroupCase{
            "v2_memory",
            {{kSelf, "0::/a\n"}, {"sys/fs/cgroup/a/memory.max", "max\n"}, {"sys/fs/cgroup/memory.max", "1073741824\n"}},
            std::nullopt,
            1073741824},
        CgroupCase{"v1_memory",
                   {{kSelf, "5:memory:/x\n"},
                    {"sys/fs/cgroup/memory/x/memory.limit_in_bytes", "536870912\n"},
                    {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}},
                   std::nullopt,
                   536870912},
        CgroupCase{"v1_memory_without_limit",
                   {{kSelf, "5:memory:/\n"}, {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}},
                   std::nullopt,
                   std::nullopt},
        CgroupCase{"garbage", {{kSelf, "what\n::\n0::/\n"}, {"sys/fs/cgroup/cpu.max", "many few\n"}}, std::nullopt},
        CgroupCase{"zero_period", {{kSelf, "0::/\n"}, {"sys/fs/cgroup/cpu.max", "1000 0\n"}}, std::nullopt}),
    [](const ::testing::TestParamInfo<CgroupCase>& tested) { return tested.param.name; });

}  // namespace
}  // namespace normd::base
