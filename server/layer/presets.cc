#include "server/layer/presets.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "server/base/quoted.h"

namespace normd::layer {
namespace {

struct Preset {
  absl::string_view name;
  LayerConfig config;
};

// In the order of the docs. A number that a framework calls momentum is converted here and nowhere else.
const std::vector<Preset>& Presets() {
  static const std::vector<Preset>* const presets = new std::vector<Preset>{
      // 0.9 of the old value, population variance: what tutorials write, and ONNX BatchNormalization 14 and 15 with
      // their default attributes.
      {"reference", {.eps = 1e-5, .update_weight = 0.1, .running_var_estimator = VarianceEstimator::kPopulation}},
      // torch.nn.BatchNorm: its momentum 0.1 weighs the new batch, and running_var takes the sample variance although
      // the output uses the population variance.
      {"pytorch", {.eps = 1e-5, .update_weight = 0.1, .running_var_estimator = VarianceEstimator::kSample}},
      // Keras 3, and tf-keras 2 where it does not fuse (rank 2, say): momentum 0.99 weighs the old value.
      {"keras", {.eps = 1e-3, .update_weight = 0.01, .running_var_estimator = VarianceEstimator::kPopulation}},
      // tf-keras 2's fused kernel (rank 4), which keeps Bessel's correction.
      {"keras_fused", {.eps = 1e-3, .update_weight = 0.01, .running_var_estimator = VarianceEstimator::kSample}},
      // flax.linen.BatchNorm: momentum 0.99 weighs the old value.
      {"flax", {.eps = 1e-5, .update_weight = 0.01, .running_var_estimator = VarianceEstimator::kPopulation}},
      // Haiku's BatchNorm removes the bias towards the start, as Adam does. It has no default decay_rate; 0.99 is what
      // the other JAX library takes.
      {"haiku",
       {.eps = 1e-5,
        .averaging = Averaging::kExponentialDebiased,
        .update_weight = 0.01,
        .running_var_estimator = VarianceEstimator::kPopulation}},
      // scikit-learn's StandardScaler: a step is partial_fit, then transform. It adds nothing to the variance, so eps
      // must vanish in every sum with a variance that data can have (it does above 1e-284) and still keep the root
      // finite where the variance is 0: a constant channel becomes exactly 0 times 1e150. What differs: scikit-learn
      // divides a channel that was constant so far by 1, so that a new value there comes out as its distance from the
      // constant and not as a huge number.
      {"standard_scaler",
       {.eps = 1e-300,
        .averaging = Averaging::kPooled,
        .running_var_estimator = VarianceEstimator::kPopulation,
        .normalize_training_with = TrainingStatistics::kRunningAfterUpdate,
        .affine = false}},
      // Observation filters in reinforcement learning, with the numbers of Stable-Baselines3's VecNormalize: fold in
      // first, then normalize with everything seen so far, bounded to +-10. Its pseudo-sample (count 1e-4) is left
      // out; whoever needs the same bits sets it as the starting state.
      {"rl_observation",
       {.eps = 1e-8,
        .averaging = Averaging::kPooled,
        .running_var_estimator = VarianceEstimator::kPopulation,
        .normalize_training_with = TrainingStatistics::kRunningAfterUpdate,
        .affine = false,
        .clip = 10.0}},
  };
  return *presets;
}

}  // namespace

absl::StatusOr<LayerConfig> PresetConfig(absl::string_view name) {
  if (name.empty()) name = kDefaultPreset;
  for (const Preset& preset : Presets()) {
    if (preset.name == name) return preset.config;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("preset ", base::Quoted(name), " does not exist, want one of ", absl::StrJoin(PresetNames(), ", ")));
}

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  names.reserve(Presets().size());
  for (const Preset& preset : Presets()) names.emplace_back(preset.name);
  return names;
}

}  // namespace normd::layer
