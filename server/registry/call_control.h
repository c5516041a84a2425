#ifndef NORMD_SERVER_REGISTRY_CALL_CONTROL_H_
#define NORMD_SERVER_REGISTRY_CALL_CONTROL_H_

#include <functional>

#include "absl/status/status.h"

namespace normd::registry {

// How one call is carried out.
struct CallControl {
  // At most so many OpenMP threads.
  int threads = 1;
  // Asked before computing and again right before the commit: a status that is not OK (CANCELLED, DEADLINE_EXCEEDED)
  // ends the call with it, and nothing has changed. Unset: never.
  std::function<absl::Status()> check_alive;

  absl::Status CheckAlive() const { return check_alive ? check_alive() : absl::OkStatus(); }
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_CALL_CONTROL_H_
