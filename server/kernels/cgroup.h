#ifndef NORMD_SERVER_KERNELS_CGROUP_H_
#define NORMD_SERVER_KERNELS_CGROUP_H_

#include <optional>
#include <string>

namespace normd::kernels {

// Cores that the control groups of this process allow it, as a fraction (quota / period); the smallest along the path
// from its group to the root, since a parent's quota binds too. Absent: no quota. Understands cgroup v1
// (cpu.cfs_quota_us, cpu.cfs_period_us), v2 (cpu.max) and both at once; what cannot be read counts as no quota.
// `root` is put before "/proc/self/cgroup" and "/sys/fs/cgroup"; empty means the system's own.
std::optional<double> CgroupCores(const std::string& root);

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_CGROUP_H_
