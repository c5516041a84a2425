#ifndef NORMD_TESTS_BENCHMARKS_RPC_ALLOCATOR_H_
#define NORMD_TESTS_BENCHMARKS_RPC_ALLOCATOR_H_

#include <malloc.h>

#include <algorithm>
#include <thread>

namespace normd::benchmarks {

// The settings of server/app/main.cc: freed memory stays mapped, in few arenas. Every process of a comparison has them,
// so that no side pays for fresh pages that the other is spared.
inline void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 2147483647);
  mallopt(M_TOP_PAD, 64 << 20);
  mallopt(M_ARENA_MAX, std::max(1, static_cast<int>(std::thread::hardware_concurrency()) / 2));
}

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_RPC_ALLOCATOR_H_
