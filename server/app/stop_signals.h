#ifndef NORMD_SERVER_APP_STOP_SIGNALS_H_
#define NORMD_SERVER_APP_STOP_SIGNALS_H_

#include "absl/functional/function_ref.h"

namespace normd::app {

// SIGTERM and SIGINT as something to wait for: they are blocked and read from a descriptor, so that no code of ours
// runs in a signal handler. Make it before the first thread, which inherits the mask. Not thread-safe.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // Waits for a signal and returns its number.
  int Wait();

  // Runs `work` in a thread of its own and returns when it is done. A signal in the meantime ends the process at once,
  // with the exit status 128 + its number that shells know.
  void RunUnlessSignalled(absl::FunctionRef<void()> work);

 private:
  const int signal_fd_;
};

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_STOP_SIGNALS_H_
