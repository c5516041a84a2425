#ifndef NORMD_CLIENT_CPP_SRC_RUNTIME_H_
#define NORMD_CLIENT_CPP_SRC_RUNTIME_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"

namespace normd::internal {

// What a Connection takes from the world: time, pauses and chance. Injected, so that tests need neither a clock nor
// luck. Thread-safe.
class Runtime {
 public:
  virtual ~Runtime() = default;

  // Time since some fixed moment; never goes back.
  virtual absl::Duration Now() = 0;
  // Blocks the calling thread.
  virtual void Sleep(absl::Duration pause) = 0;
  // Runs `action` once, after `pause` (0: soon), on another thread. No thread waits meanwhile.
  virtual void After(absl::Duration pause, std::function<void()> action) = 0;
  // Uniform in [0, 1).
  virtual double Uniform() = 0;
  // Unique in the world.
  virtual std::string NewRequestId() = 0;

  // The real one.
  static std::shared_ptr<Runtime> System();
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_RUNTIME_H_
