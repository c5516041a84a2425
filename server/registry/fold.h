#ifndef NORMD_SERVER_REGISTRY_FOLD_H_
#define NORMD_SERVER_REGISTRY_FOLD_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"

namespace normd::registry {

// What one training batch says about every channel.
struct BatchMoments {
  // Values per channel, >= 1.
  int64_t count = 0;
  // Length num_channels, in place of `count`, or empty. >= 1 but in skipped channels, whose entry is not read.
  absl::Span<const int64_t> channel_counts = {};
  // Length num_channels. `var` is the population variance.
  absl::Span<const double> mean = {};
  absl::Span<const double> var = {};
  // Channels to leave alone (NonFinitePolicy::kSkipChannel), ascending.
  absl::Span<const int64_t> skipped_channels = {};
};

// The running statistics with one more batch in them, as config.averaging and config.running_var_estimator say. A pure
// function, so that a commit that lost a race can be applied again to the newer state.
// An update_weight of 1 is an assignment, so that it heals a channel that holds NaN.
// Of a single value there is no sample variance: a pooled layer's running_var stays as it is until a second one comes.
// REQUIRES config.track_running_stats; with VarianceEstimator::kSample and another averaging than kPooled, count >= 2.
layer::Statistics Fold(const layer::LayerConfig& config, const layer::Statistics& statistics,
                       const BatchMoments& batch);

// INVALID_ARGUMENT if a fold takes a channel out of the finite numbers, which batches far apart can do though each is
// finite, and the layer does not want that (NonFinitePolicy::kPropagate). `what` does it: "folding x in".
absl::Status CheckStaysFinite(const layer::LayerConfig& config, absl::string_view what, const layer::Statistics& before,
                              const layer::Statistics& after);

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_FOLD_H_
