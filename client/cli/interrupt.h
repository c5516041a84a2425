#ifndef NORMD_CLIENT_CLI_INTERRUPT_H_
#define NORMD_CLIENT_CLI_INTERRUPT_H_

#include <signal.h>

#include <array>

namespace normd::cli {

// While this lives, the first SIGINT (Ctrl-C), SIGTERM or SIGHUP does not end the program but is noted, so that what
// was made on the server can be removed. The second one of a kind ends it as usual. A signal that the parent had
// ignored (nohup) stays ignored. One at a time in a process.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool asked() const;

 private:
  std::array<struct sigaction, 3> before_ = {};
};

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_INTERRUPT_H_
