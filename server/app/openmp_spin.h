#ifndef NORMD_SERVER_APP_OPENMP_SPIN_H_
#define NORMD_SERVER_APP_OPENMP_SPIN_H_

namespace normd::app {

// Keeps libgomp's idle threads from spinning for many milliseconds after each large tensor (300,000 rounds by default):
// starts the program anew with GOMP_SPINCOUNT in its environment, since libgomp reads it before main. Does nothing if
// GOMP_SPINCOUNT or OMP_WAIT_POLICY is set: the user has chosen, or this has been done. Same process, same arguments.
// Returns also when the program cannot be started anew; it then runs as it would have. Call it before anything is
// started or opened.
void LimitOpenMpSpin(char** argv);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_OPENMP_SPIN_H_
