#ifndef NORMD_SERVER_LAYER_LAYER_CONFIG_H_
#define NORMD_SERVER_LAYER_LAYER_CONFIG_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"

namespace normd::layer {

// The enums mirror normd.v1 (proto/normd/v1/resources.proto), where each value is explained.
enum class Averaging { kExponential, kExponentialDebiased, kCumulative, kPooled };
enum class VarianceEstimator { kPopulation, kSample };
enum class TrainingStatistics { kBatch, kRunningBeforeUpdate, kRunningAfterUpdate };
enum class NonFinitePolicy { kReject, kSkipChannel, kPropagate };

// The settings of a layer, all of them decided. The defaults are those of the preset `reference`. A plain value.
struct LayerConfig {
  int64_t num_channels = 0;
  // Added to the variance before the square root; finite and > 0.
  double eps = 1e-5;
  Averaging averaging = Averaging::kExponential;
  // Weight of the new batch, in [0, 1]; means something only for the exponential averagings.
  double update_weight = 0.1;
  VarianceEstimator running_var_estimator = VarianceEstimator::kPopulation;
  TrainingStatistics normalize_training_with = TrainingStatistics::kBatch;
  bool affine = true;
  bool track_running_stats = true;
  // Bound on |x_hat|; finite and > 0.
  std::optional<double> clip = std::nullopt;
  NonFinitePolicy non_finite_policy = NonFinitePolicy::kReject;
  // Nothing of the layer changes but this.
  bool frozen = false;

  friend bool operator==(const LayerConfig&, const LayerConfig&) = default;
};

// Whether update_weight means something for this averaging.
bool UsesUpdateWeight(Averaging averaging);

// INVALID_ARGUMENT, naming the field, the value and what is wanted, if a value is out of range or two do not go
// together. `max_channels` is the server's limit.
absl::Status ValidateConfig(const LayerConfig& config, int64_t max_channels);

}  // namespace normd::layer

#endif  // NORMD_SERVER_LAYER_LAYER_CONFIG_H_
