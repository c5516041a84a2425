#include "server/registry/fold.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace normd::registry {
namespace {

using layer::Averaging;
using layer::LayerConfig;
using layer::Statistics;

// (1 - weight) * running + weight * batch, except that a weight of 0 keeps even beside a NaN, and 1 replaces even a
// NaN.
double Blend(double running, double batch, double weight) {
  if (weight == 0) return running;
  if (weight == 1) return batch;
  return (1 - weight) * running + weight * batch;
}

// The weight of the t-th batch of a channel, counted from 1.
double BatchWeight(const LayerConfig& config, int64_t t) {
  switch (config.averaging) {
    case Averaging::kExponential:
      return config.update_weight;
    case Averaging::kExponentialDebiased: {
      // update_weight / (1 - (1 - update_weight)^t) without the cancellation for small weights; exactly 1 at first.
      if (t <= 1 || config.update_weight == 1) return 1;
      const double bias = -std::expm1(static_cast<double>(t) * std::log1p(-config.update_weight));
      return std::min(1.0, config.update_weight / bias);
    }
    case Averaging::kCumulative:
      return 1.0 / static_cast<double>(t);
    case Averaging::kPooled:
      break;
  }
  return 1;
}

// Chan et al.: the mean and variance of both sets of values. `bessel` is 1 if running_var divides by n - 1, else 0.
// Leaves `var` as it is where that divisor is 0: the next merge gives it no weight.
void MergePooled(double batch_count, double batch_mean, double batch_var, double bessel, double count, double& mean,
                 double& var) {
  if (count == 0) {
    mean = batch_mean;
    if (batch_count > bessel) var = bessel == 0 ? batch_var : batch_var * (batch_count / (batch_count - bessel));
    return;
  }
  const double total = count + batch_count;
  const double delta = batch_mean - mean;
  // A fractional prior may be below 1 and then weighs nothing in the sample variance.
  const double m2 =
      var * std::max(0.0, count - bessel) + batch_var * batch_count + delta * delta * (count * (batch_count / total));
  mean += delta * (batch_count / total);
  if (total > bessel) var = m2 / (total - bessel);
}

}  // namespace

Statistics Fold(const LayerConfig& config, const Statistics& statistics, const BatchMoments& batch) {
  assert(config.track_running_stats);
  const bool sample = config.running_var_estimator == layer::VarianceEstimator::kSample;

  Statistics next = statistics;
  next.num_batches_tracked += 1;
  const size_t num_channels = next.running_mean.size();
  if (!batch.skipped_channels.empty() && next.skipped_batches.empty()) next.skipped_batches.resize(num_channels);
  auto skipped = batch.skipped_channels.begin();

  // All channels have seen the same number of batches unless one was skipped.
  int64_t weight_t = next.num_batches_tracked;
  double weight = BatchWeight(config, weight_t);
  for (size_t c = 0; c < num_channels; ++c) {
    if (skipped != batch.skipped_channels.end() && *skipped == static_cast<int64_t>(c)) {
      next.skipped_batches[c] += 1;
      ++skipped;
      continue;
    }
    const auto count = static_cast<double>(batch.channel_counts.empty() ? batch.count : batch.channel_counts[c]);
    if (config.averaging == Averaging::kPooled) {
      MergePooled(count, batch.mean[c], batch.var[c], sample ? 1 : 0, statistics.sample_count[c], next.running_mean[c],
                  next.running_var[c]);
    } else {
      const int64_t t = next.num_batches_tracked - (next.skipped_batches.empty() ? 0 : next.skipped_batches[c]);
      if (t != weight_t) {
        weight_t = t;
        weight = BatchWeight(config, t);
      }
      assert(!sample || count >= 2);
      const double correction = sample ? count / (count - 1) : 1;
      next.running_mean[c] = Blend(next.running_mean[c], batch.mean[c], weight);
      next.running_var[c] = Blend(next.running_var[c], batch.var[c] * correction, weight);
    }
    next.sample_count[c] += count;
  }
  return next;
}

absl::Status CheckStaysFinite(const LayerConfig& config, absl::string_view what, const Statistics& before,
                              const Statistics& after) {
  if (config.non_finite_policy == layer::NonFinitePolicy::kPropagate) return absl::OkStatus();
  for (size_t c = 0; c < after.running_mean.size(); ++c) {
    const bool was_finite = std::isfinite(before.running_mean[c]) && std::isfinite(before.running_var[c]);
    const bool is_finite = std::isfinite(after.running_mean[c]) && std::isfinite(after.running_var[c]);
    if (is_finite || !was_finite) continue;
    return absl::InvalidArgumentError(absl::StrCat(what, " would make running_mean[", c, "] ", after.running_mean[c],
                                                   " and running_var[", c, "] ", after.running_var[c],
                                                   ", want finite numbers (non_finite_policy is not PROPAGATE)"));
  }
  return absl::OkStatus();
}

}  // namespace normd::registry
