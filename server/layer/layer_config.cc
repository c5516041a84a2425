#include "server/layer/layer_config.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace normd::layer {
namespace {

bool IsFinitePositive(double value) { return std::isfinite(value) && value > 0; }

}  // namespace

bool UsesUpdateWeight(Averaging averaging) {
  return averaging == Averaging::kExponential || averaging == Averaging::kExponentialDebiased;
}

absl::Status ValidateConfig(const LayerConfig& config, int64_t max_channels) {
  if (config.num_channels < 1 || config.num_channels > max_channels) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_channels is ", config.num_channels, ", want 1 to ", max_channels));
  }
  if (!IsFinitePositive(config.eps)) {
    return absl::InvalidArgumentError(absl::StrCat("eps is ", config.eps, ", want a finite number > 0"));
  }
  if (UsesUpdateWeight(config.averaging)) {
    // Negated, so that NaN is refused too.
    if (!(config.update_weight >= 0 && config.update_weight <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("update_weight is ", config.update_weight, ", want a number in [0, 1]"));
    }
    if (config.averaging == Averaging::kExponentialDebiased && config.update_weight == 0) {
      return absl::InvalidArgumentError(
          "update_weight is 0, want > 0 with averaging EXPONENTIAL_DEBIASED, which divides by "
          "1 - (1 - update_weight)^t");
    }
  }
  if (!config.track_running_stats && config.normalize_training_with != TrainingStatistics::kBatch) {
    return absl::InvalidArgumentError(
        "normalize_training_with names the running statistics, want BATCH where track_running_stats is false");
  }
  if (config.clip.has_value() && !IsFinitePositive(*config.clip)) {
    return absl::InvalidArgumentError(absl::StrCat("clip is ", *config.clip, ", want a finite number > 0, or none"));
  }
  return absl::OkStatus();
}

}  // namespace normd::layer
