#include "server/kernels/parallel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace normd::kernels {

void RunTeam([[maybe_unused]] int threads, void (*body)(void* context, int rank, int size), void* context) {
#ifdef _OPENMP
  if (threads > 1) {
    // libgomp may give fewer threads than asked for.
#pragma omp parallel num_threads(threads)
    body(context, omp_get_thread_num(), omp_get_num_threads());
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
