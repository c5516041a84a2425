#include "server/kernels/parallel.h"

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

void TeamBarrier() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

}  // namespace normd::kernels
