#ifndef NORMD_SERVER_ACCESS_RATE_LIMITER_H_
#define NORMD_SERVER_ACCESS_RATE_LIMITER_H_

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace normd::access {

// A token bucket: so many calls a second in the long run, and up to a second's worth, at least one, at once.
// Thread-safe.
class RateLimiter {
 public:
  // `calls_per_second` > 0. `clock` outlives this.
  RateLimiter(double calls_per_second, const base::Clock& clock);

  // Takes a call; zero: it may go on. Otherwise it may not, and how long it takes until one may.
  absl::Duration Take();

  double calls_per_second() const { return calls_per_second_; }

 private:
  const double calls_per_second_;
  const double burst_;
  const base::Clock& clock_;
  base::Mutex mutex_;
  // Calls that may go on at time_.
  double calls_ ABSL_GUARDED_BY(mutex_);
  absl::Duration time_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace normd::access

#endif  // NORMD_SERVER_ACCESS_RATE_LIMITER_H_
