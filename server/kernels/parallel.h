#ifndef NORMD_SERVER_KERNELS_PARALLEL_H_
#define NORMD_SERVER_KERNELS_PARALLEL_H_

#include <cstdint>

// The one place that knows OpenMP. Plain function pointers, so that code built for one instruction set stays in its own
// functions.
namespace normd::kernels {

// Calls body(context, rank, size) once for every rank in [0, size) at the same time, 1 <= size <= threads, and returns
// when all have. `body` must not throw: nothing may leave an OpenMP region. One thread (and a build without OpenMP):
// body(context, 0, 1) on the caller's.
void RunTeam(int threads, void (*body)(void* context, int rank, int size), void* context);

// Waits until every member of the running team has come here.
void TeamBarrier();

// RunTeam with an object whose operator()(rank, size) is the body.
template <typename F>
void RunTeam(int threads, F* body) {
  RunTeam(
      threads, [](void* context, int rank, int size) { (*static_cast<F*>(context))(rank, size); }, body);
}

// The part [begin, end) of [0, count) that falls to a rank: consecutive, as even as it goes.
struct Part {
  [[gnu::always_inline]] Part(int64_t count, int rank, int size)
      : begin(count * rank / size), end(count * (rank + 1) / size) {}
  int64_t begin;
  int64_t end;
};

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_PARALLEL_H_
