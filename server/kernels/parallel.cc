#include "server/kernels/parallel.h"

#include <algorithm>
#include <atomic>

#ifdef _OPENMP
#include <omp.h>
#include <sched.h>
#endif

namespace normd::kernels {

#ifdef _OPENMP
namespace {

// A worker that was woken on its caller's core waits there while the caller spins for it, though another core is idle.
// So workers keep off the core that the caller is on.
void KeepOff(int caller_core) {
  thread_local int kept_off = -1;
  if (caller_core == kept_off || caller_core < 0) return;
  thread_local cpu_set_t allowed;
  if (kept_off == -1 && sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  cpu_set_t others = allowed;
  CPU_CLR(caller_core, &others);
  if (CPU_COUNT(&others) > 0 && sched_setaffinity(0, sizeof others, &others) == 0) kept_off = caller_core;
}

}  // namespace
#endif

void RunTeam([[maybe_unused]] int threads, void (*body)(void* context, int rank, int size), void* context) {
#ifdef _OPENMP
  if (threads > 1) {
    const int caller_core = sched_getcpu();
    // libgomp may give fewer threads than asked for.
#pragma omp parallel num_threads(threads)
    {
      if (omp_get_thread_num() > 0) KeepOff(caller_core);
      body(context, omp_get_thread_num(), omp_get_num_threads());
    }
    return;
  }
#endif
  body(context, 0, 1);
}

Deal::Deal(int64_t count, int threads, int64_t least)
    : count_(count), threads_(std::min(threads, kMaxShares)), least_(least) {
  const int64_t units = (count + least - 1) / least;
  for (int rank = 0; rank < threads_; ++rank) {
    const Part share(units, rank, threads_);
    shares_[rank].left = static_cast<uint64_t>(share.begin) << 32 | static_cast<uint64_t>(share.end);
  }
}

Part Deal::Next(int rank) {
  for (int i = 0; i < threads_; ++i) {
    const int owner = (rank + i) % threads_;
    const std::atomic_ref<uint64_t> left(shares_[owner].left);
    uint64_t seen = left.load(std::memory_order_relaxed);
    while (true) {
      const uint64_t begin = seen >> 32;
      const uint64_t end = seen & 0xffffffff;
      if (begin >= end) break;
      // Half of it, as long as there may be others: the owner's from the front, another's from the back.
      const uint64_t half = threads_ == 1 ? end - begin : (end - begin + 1) / 2;
      const bool own = owner == rank;
      const uint64_t rest = own ? (begin + half) << 32 | end : begin << 32 | (end - half);
      if (left.compare_exchange_weak(seen, rest, std::memory_order_relaxed)) {
        return own ? ToItems(begin, begin + half) : ToItems(end - half, end);
      }
    }
  }
  return {count_, count_};
}

Part Deal::ToItems(uint64_t begin, uint64_t end) const {
  return {static_cast<int64_t>(begin) * least_, std::min(count_, static_cast<int64_t>(end) * least_)};
}

void TeamBarrier() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

}  // namespace normd::kernels
