#ifndef NORMD_TESTS_FAKE_CLOCK_H_
#define NORMD_TESTS_FAKE_CLOCK_H_

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"
#include "server/base/clock.h"

namespace normd::tests {

// Stands still until told. Thread-safe.
class FakeClock final : public base::Clock {
 public:
  absl::Time Now() const override { return absl::FromUnixNanos(wall_nanos_.load()); }
  absl::Duration Elapsed() const override { return absl::Nanoseconds(elapsed_nanos_.load()); }
  // Time passes.
  void Advance(absl::Duration by) {
    Jump(by);
    elapsed_nanos_ += absl::ToInt64Nanoseconds(by);
  }
  // Somebody sets the wall clock.
  void Jump(absl::Duration by) { wall_nanos_ += absl::ToInt64Nanoseconds(by); }

 private:
  std::atomic<int64_t> wall_nanos_ = 1'700'000'000'000'000'000;
  std::atomic<int64_t> elapsed_nanos_ = 1'000'000'000'000;
};

}  // namespace normd::tests

#endif  // NORMD_TESTS_FAKE_CLOCK_H_
