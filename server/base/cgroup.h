#ifndef NORMD_SERVER_BASE_CGROUP_H_
#define NORMD_SERVER_BASE_CGROUP_H_

#include <cstdint>
#include <optional>
#include <string>

namespace normd::base {

// Cores that the control groups of this process allow it, as a fraction (quota / period); the smallest along the path
// from its group to the root, since a parent's quota binds too. Absent: no quota. Understands cgroup v1
// (cpu.cfs_quota_us, cpu.cfs_period_us), v2 (cpu.max) and both at once; what cannot be read counts as no quota.
// `root` is put before "/proc/self/cgroup" and "/sys/fs/cgroup"; empty means the system's own.
std::optional<double> CgroupCores(const std::string& root);

// Bytes of memory that they allow it, found in the same way (v1 memory.limit_in_bytes, v2 memory.max).
std::optional<int64_t> CgroupMemoryBytes(const std::string& root);

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_CGROUP_H_
