#ifndef NORMD_SERVER_BASE_DURATION_HISTOGRAM_H_
#define NORMD_SERVER_BASE_DURATION_HISTOGRAM_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace normd::base {

// How many durations were how long. A plain value.
struct DurationHistogram {
  // Inclusive upper bounds of all buckets but the last, in seconds: from a small call on a Unix socket to one that
  // nearly reaches the SDKs' timeout.
  static constexpr std::array<double, 18> kBoundsSeconds = {
      50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};

  std::array<int64_t, kBoundsSeconds.size() + 1> counts = {};
  double sum_seconds = 0;

  void Add(absl::Duration duration) {
    const double seconds = absl::ToDoubleSeconds(duration);
    const auto* const bound = std::lower_bound(kBoundsSeconds.begin(), kBoundsSeconds.end(), seconds);
    ++counts[static_cast<std::size_t>(bound - kBoundsSeconds.begin())];
    sum_seconds += seconds;
  }

  void Merge(const DurationHistogram& other) {
    for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
    sum_seconds += other.sum_seconds;
  }
};

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_DURATION_HISTOGRAM_H_
