#ifndef NORMD_SERVER_KERNELS_PARALLELISM_H_
#define NORMD_SERVER_KERNELS_PARALLELISM_H_

#include <cstdint>

namespace normd::kernels {

// Cores this process may use: the smaller of the CPU affinity mask and the cgroup quota (v1 or v2), rounded up, at
// least 1. Reads the system; call it once.
int AvailableCores();

// Threads worth using for a call that touches `bytes` of tensor data, of `available`. 1 means: run inline. A hand-off
// to another thread costs as much as the kernel needs for about 1 MB.
int ThreadsFor(int64_t bytes, int available);

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_PARALLELISM_H_
