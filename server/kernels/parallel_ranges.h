#ifndef NORMD_SERVER_KERNELS_PARALLEL_RANGES_H_
#define NORMD_SERVER_KERNELS_PARALLEL_RANGES_H_

#include <cstdint>

namespace normd::kernels {

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls f(begin, end) on consecutive ranges that cover [0, count), one range per thread, at most `threads` at a time.
// f must not throw and must not allocate: nothing may leave an OpenMP region. The same cut for the same count and
// threads, so that a thread meets in a second pass what its cache kept from the first.
template <typename F>
void ParallelRanges(int64_t count, int threads, const F& f) {
  const int ranges = threads < count ? threads : static_cast<int>(count);
  if (ranges <= 1) {
    if (count > 0) f(int64_t{0}, count);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(ranges)
#endif
  for (int r = 0; r < ranges; ++r) f(count * r / ranges, count * (r + 1) / ranges);
}

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_PARALLEL_RANGES_H_
