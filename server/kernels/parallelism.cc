#include "server/kernels/parallelism.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <optional>
#include <thread>

#include "server/base/cgroup.h"

namespace normd::kernels {
namespace {

constexpr int64_t kMiB = 1 << 20;
// What each thread should have to do before it is worth waking. On two cores a training step on 8 MiB takes half the
// time split, where the second core is awake because calls follow each other. After a pause of 2 ms waking it costs 0.1
// to 0.6 ms (tests/benchmarks/threads_benchmark): 4 MiB (0.22 ms serial) lose, 8 to 16 MiB (0.5 to 1 ms) win or lose by
// the luck of the wake-up, 32 MiB (2.1 ms) always win (1.2 ms).
constexpr int64_t kBytesPerThread = 4 * kMiB;

int AffinityCores() {
  // The kernel refuses a mask smaller than its own; how large that is cannot be asked.
  for (int cpus = CPU_SETSIZE; cpus <= (1 << 20); cpus *= 2) {
    cpu_set_t* set = CPU_ALLOC(cpus);
    if (set == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(cpus);
    const bool ok = sched_getaffinity(0, size, set) == 0;
    const bool too_small = !ok && errno == EINVAL;
    const int count = ok ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (ok) return count;
    if (!too_small) break;
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

}  // namespace

int AvailableCores() {
  int cores = std::max(1, AffinityCores());
  if (const std::optional<double> quota = base::CgroupCores("")) {
    cores = std::min(cores, std::max(1, static_cast<int>(std::ceil(std::min(*quota, 1e6)))));
  }
  return cores;
}

int ThreadsFor(int64_t bytes, int cores, int busy) {
  const int idle = std::max(1, cores - std::max(0, busy));
  return static_cast<int>(std::clamp<int64_t>(bytes / kBytesPerThread, 1, idle));
}

}  // namespace normd::kernels
