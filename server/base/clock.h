#ifndef NORMD_SERVER_BASE_CLOCK_H_
#define NORMD_SERVER_BASE_CLOCK_H_

#include "absl/time/time.h"

namespace normd::base {

// Time, injected so that tests can set it. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // The wall clock, which somebody may set forward or back at any moment.
  virtual absl::Time Now() const = 0;
  // Since some moment, and always forward: what to measure with.
  virtual absl::Duration Elapsed() const = 0;

  // The system's clock; lives for ever.
  static const Clock& System();
};

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_CLOCK_H_
