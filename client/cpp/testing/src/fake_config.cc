#include "client/cpp/testing/src/fake_config.h"

#include <cmath>
#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace normd::testing {
namespace {

struct Preset {
  absl::string_view name;
  double eps;
  v1::Averaging averaging;
  std::optional<double> update_weight;
  v1::VarianceEstimator estimator;
  v1::TrainingStatistics normalize_training_with;
  bool affine;
  std::optional<double> clip;
};

// docs/batch_norm.md says where the numbers come from; tests/client/testing compares them with the server's.
constexpr Preset kPresets[] = {
    {"reference", 1e-5, v1::AVERAGING_EXPONENTIAL, 0.1, v1::VARIANCE_ESTIMATOR_POPULATION,
     v1::TRAINING_STATISTICS_BATCH, true, std::nullopt},
    {"pytorch", 1e-5, v1::AVERAGING_EXPONENTIAL, 0.1, v1::VARIANCE_ESTIMATOR_SAMPLE, v1::TRAINING_STATISTICS_BATCH,
     true, std::nullopt},
    {"keras", 1e-3, v1::AVERAGING_EXPONENTIAL, 0.01, v1::VARIANCE_ESTIMATOR_POPULATION, v1::TRAINING_STATISTICS_BATCH,
     true, std::nullopt},
    {"keras_fused", 1e-3, v1::AVERAGING_EXPONENTIAL, 0.01, v1::VARIANCE_ESTIMATOR_SAMPLE, v1::TRAINING_STATISTICS_BATCH,
     true, std::nullopt},
    {"flax", 1e-5, v1::AVERAGING_EXPONENTIAL, 0.01, v1::VARIANCE_ESTIMATOR_POPULATION, v1::TRAINING_STATISTICS_BATCH,
     true, std::nullopt},
    {"haiku", 1e-5, v1::AVERAGING_EXPONENTIAL_DEBIASED, 0.01, v1::VARIANCE_ESTIMATOR_POPULATION,
     v1::TRAINING_STATISTICS_BATCH, true, std::nullopt},
    {"standard_scaler", 1e-300, v1::AVERAGING_POOLED, std::nullopt, v1::VARIANCE_ESTIMATOR_POPULATION,
     v1::TRAINING_STATISTICS_RUNNING_AFTER_UPDATE, false, std::nullopt},
    {"rl_observation", 1e-8, v1::AVERAGING_POOLED, std::nullopt, v1::VARIANCE_ESTIMATOR_POPULATION,
     v1::TRAINING_STATISTICS_RUNNING_AFTER_UPDATE, false, 10.0},
};

bool UsesUpdateWeight(const v1::LayerConfig& config) {
  return config.averaging() == v1::AVERAGING_EXPONENTIAL || config.averaging() == v1::AVERAGING_EXPONENTIAL_DEBIASED;
}

v1::LayerConfig ConfigOf(const Preset& preset) {
  v1::LayerConfig config;
  config.set_eps(preset.eps);
  config.set_averaging(preset.averaging);
  if (preset.update_weight) config.set_update_weight(*preset.update_weight);
  config.set_running_var_estimator(preset.estimator);
  config.set_normalize_training_with(preset.normalize_training_with);
  config.set_affine(preset.affine);
  config.set_track_running_stats(true);
  if (preset.clip) config.set_clip(*preset.clip);
  config.set_non_finite_policy(v1::NON_FINITE_POLICY_REJECT);
  config.set_frozen(false);
  return config;
}

absl::Status Check(const v1::LayerConfig& config) {
  if (config.num_channels() < 1) {
    return absl::InvalidArgumentError(absl::StrCat("num_channels is ", config.num_channels(), ", want at least 1"));
  }
  if (!(std::isfinite(config.eps()) && config.eps() > 0)) {
    return absl::InvalidArgumentError(absl::StrCat("eps is ", config.eps(), ", want a finite number > 0"));
  }
  if (!(config.update_weight() >= 0 && config.update_weight() <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("update_weight is ", config.update_weight(), ", want a number in [0, 1]"));
  }
  if (config.averaging() == v1::AVERAGING_EXPONENTIAL_DEBIASED && config.update_weight() == 0) {
    return absl::InvalidArgumentError("update_weight is 0, want > 0 with averaging EXPONENTIAL_DEBIASED");
  }
  if (config.has_update_weight() && !UsesUpdateWeight(config)) {
    return absl::InvalidArgumentError("update_weight is given, want none with this averaging");
  }
  if (config.has_clip() && !(std::isfinite(config.clip()) && config.clip() > 0)) {
    return absl::InvalidArgumentError(absl::StrCat("clip is ", config.clip(), ", want a finite number > 0"));
  }
  if (!config.track_running_stats() && config.normalize_training_with() != v1::TRAINING_STATISTICS_BATCH) {
    return absl::InvalidArgumentError("normalize_training_with is not BATCH, want BATCH without track_running_stats");
  }
  if (config.non_finite_policy() == v1::NON_FINITE_POLICY_SKIP_CHANNEL) {
    return absl::UnimplementedError("a FakeServer has no NON_FINITE_POLICY_SKIP_CHANNEL");
  }
  return absl::OkStatus();
}

absl::Status CheckLength(absl::string_view field, int size, bool applies, int64_t num_channels) {
  if (size == 0) return absl::OkStatus();
  const int64_t want = applies ? num_channels : 0;
  if (size == want) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " has ", size, " entries, want ", want));
}

}  // namespace

absl::StatusOr<v1::LayerConfig> ResolveConfig(const std::string& preset, const v1::LayerConfig& config) {
  for (const Preset& known : kPresets) {
    if (known.name != (preset.empty() ? "reference" : preset)) continue;
    v1::LayerConfig resolved = ConfigOf(known);
    // Present fields win; an enum that is UNSPECIFIED is absent.
    resolved.MergeFrom(config);
    if (!UsesUpdateWeight(resolved) && !config.has_update_weight()) resolved.clear_update_weight();
    if (UsesUpdateWeight(resolved) && !resolved.has_update_weight()) resolved.set_update_weight(0.1);
    if (absl::Status status = Check(resolved); !status.ok()) return status;
    return resolved;
  }
  return absl::InvalidArgumentError(absl::StrCat("preset '", preset, "' does not exist"));
}

absl::Status UpdateConfig(const google::protobuf::FieldMask& mask, const v1::LayerConfig& values,
                          v1::LayerConfig* config) {
  if (mask.paths().empty()) return absl::InvalidArgumentError("update_mask is empty");
  v1::LayerConfig next = *config;
  for (const std::string& name : mask.paths()) {
    if (name == "eps") {
      next.set_eps(values.eps());
    } else if (name == "update_weight") {
      next.set_update_weight(values.update_weight());
    } else if (name == "normalize_training_with") {
      next.set_normalize_training_with(values.normalize_training_with());
    } else if (name == "clip") {
      next.clear_clip();
      if (values.has_clip()) next.set_clip(values.clip());
    } else if (name == "non_finite_policy") {
      next.set_non_finite_policy(values.non_finite_policy());
    } else if (name == "frozen") {
      next.set_frozen(values.frozen());
    } else if (v1::LayerConfig::descriptor()->FindFieldByName(name) != nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(name, " is immutable"));
    } else {
      return absl::InvalidArgumentError(absl::StrCat("update_mask names '", name, "', which a layer does not have"));
    }
  }
  if (absl::Status status = Check(next); !status.ok()) return status;
  *config = next;
  return absl::OkStatus();
}

v1::LayerState InitialState(const v1::LayerConfig& config) {
  const auto length = static_cast<int>(config.num_channels());
  v1::LayerState state;
  if (config.track_running_stats()) {
    state.mutable_running_mean()->Resize(length, 0);
    state.mutable_running_var()->Resize(length, 1);
    state.mutable_sample_count()->Resize(length, 0);
  }
  if (config.affine()) {
    state.mutable_gamma()->Resize(length, 1);
    state.mutable_beta()->Resize(length, 0);
  }
  return state;
}

absl::Status SetState(const v1::LayerConfig& config, const v1::LayerState& given, v1::LayerState* state) {
  const int64_t c = config.num_channels();
  const bool tracks = config.track_running_stats();
  absl::Status status = CheckLength("running_mean", given.running_mean_size(), tracks, c);
  if (status.ok()) status = CheckLength("running_var", given.running_var_size(), tracks, c);
  if (status.ok()) status = CheckLength("sample_count", given.sample_count_size(), tracks, c);
  if (status.ok()) status = CheckLength("gamma", given.gamma_size(), config.affine(), c);
  if (status.ok()) status = CheckLength("beta", given.beta_size(), config.affine(), c);
  if (!status.ok()) return status;
  if ((given.running_mean_size() > 0) != (given.running_var_size() > 0)) {
    return absl::InvalidArgumentError("one of running_mean and running_var is given, want both or none");
  }
  if ((given.gamma_size() > 0) != (given.beta_size() > 0)) {
    return absl::InvalidArgumentError("one of gamma and beta is given, want both or none");
  }
  if (given.running_mean_size() > 0) {
    if (config.averaging() == v1::AVERAGING_POOLED && given.sample_count_size() == 0) {
      return absl::InvalidArgumentError("running_mean and running_var are given without sample_count");
    }
    *state->mutable_running_mean() = given.running_mean();
    *state->mutable_running_var() = given.running_var();
    *state->mutable_sample_count() = given.sample_count();
    state->mutable_sample_count()->Resize(static_cast<int>(c), 0);
    state->set_num_batches_tracked(given.num_batches_tracked());
  } else if (given.sample_count_size() > 0 || given.num_batches_tracked() != 0) {
    return absl::InvalidArgumentError("counts are given without running_mean and running_var");
  }
  if (given.gamma_size() > 0) {
    *state->mutable_gamma() = given.gamma();
    *state->mutable_beta() = given.beta();
  }
  return absl::OkStatus();
}

}  // namespace normd::testing
