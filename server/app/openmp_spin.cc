#include "server/app/openmp_spin.h"

#include <unistd.h>

#include <cstdlib>

namespace normd::app {
namespace {

// Some 0.04 to 0.1 ms: who comes late to a call finds its share taken by the others (Deal, server/kernels/parallel.h),
// so that nobody waits long for anybody, and a worker that spins on after a call keeps those that answer it from a
// core. On two cores of an AMD EPYC guest, over 10,000 rounds: 8 MB in band 1.16x, 25.7 MB in shared memory 1.0x, and a
// training step on 8 to 32 MiB after a pause as fast for two thirds of the CPU (tests/benchmarks/threads_benchmark).
constexpr char kSpinRounds[] = "2000";

}  // namespace

void LimitOpenMpSpin(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  if (setenv("GOMP_SPINCOUNT", kSpinRounds, 0) != 0) return;
  execv("/proc/self/exe", argv);
}

}  // namespace normd::app
