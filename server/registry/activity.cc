#include "server/registry/activity.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace normd::registry {

Drift MeasureDrift(const layer::LayerConfig& config, const layer::Statistics& before, const BatchMoments& batch) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (before.num_batches_tracked == 0) return {};
  double distance2 = 0;
  double most = 1;
  double least = 1;
  std::size_t skipped = 0;
  for (std::size_t c = 0; c < batch.mean.size(); ++c) {
    if (skipped < batch.skipped_channels.size() && batch.skipped_channels[skipped] == static_cast<int64_t>(c)) {
      ++skipped;
      continue;
    }
    // Roots and logarithms are taken once, of the largest: a step has up to a million channels.
    const double scale = 1 / (before.running_var[c] + config.eps);
    const double delta = batch.mean[c] - before.running_mean[c];
    const double d2 = delta * delta * scale;
    const double ratio = (batch.var[c] + config.eps) * scale;
    // A comparison with NaN is false.
    if (!(d2 < kInfinity && ratio < kInfinity)) return {kInfinity, kInfinity};
    distance2 = std::max(distance2, d2);
    most = std::max(most, ratio);
    least = std::min(least, ratio);
  }
  return {std::sqrt(distance2), std::max(std::log(most), -std::log(least))};
}

}  // namespace normd::registry
