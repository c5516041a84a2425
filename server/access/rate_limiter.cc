#include "server/access/rate_limiter.h"

#include <algorithm>

namespace normd::access {

RateLimiter::RateLimiter(double calls_per_second, const base::Clock& clock)
    : calls_per_second_(calls_per_second),
      burst_(std::max(1.0, calls_per_second)),
      clock_(clock),
      calls_(burst_),
      time_(clock.Elapsed()) {}

absl::Duration RateLimiter::Take() {
  const base::MutexLock lock(&mutex_);
  const absl::Duration now = clock_.Elapsed();
  calls_ = std::min(burst_, calls_ + absl::ToDoubleSeconds(now - time_) * calls_per_second_);
  time_ = now;
  if (calls_ >= 1) {
    calls_ -= 1;
    return absl::ZeroDuration();
  }
  return absl::Seconds((1 - calls_) / calls_per_second_);
}

}  // namespace normd::access
