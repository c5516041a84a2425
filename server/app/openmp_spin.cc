#include "server/app/openmp_spin.h"

#include <unistd.h>

#include <cstdlib>

namespace normd::app {
namespace {

// 0.2 to 0.5 ms: about what it takes to wake a thread on a core that sleeps, so that nobody falls asleep in the middle
// of a call (tests/benchmarks/threads_benchmark: with 2000 rounds a second thread does not pay even at 32 MiB).
constexpr char kSpinRounds[] = "10000";

}  // namespace

void LimitOpenMpSpin(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  if (setenv("GOMP_SPINCOUNT", kSpinRounds, 0) != 0) return;
  execv("/proc/self/exe", argv);
}

}  // namespace normd::app
