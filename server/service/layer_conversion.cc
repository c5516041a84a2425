#include "server/service/layer_conversion.h"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "google/protobuf/timestamp.pb.h"
#include "server/kernels/batch_norm.h"
#include "server/layer/layer_error.h"
#include "server/layer/presets.h"

namespace normd::service {
namespace {

// The pairs of each enum, in one place for both directions.
struct AveragingPair {
  v1::Averaging wire;
  layer::Averaging value;
};
constexpr AveragingPair kAveragings[] = {
    {v1::AVERAGING_EXPONENTIAL, layer::Averaging::kExponential},
    {v1::AVERAGING_EXPONENTIAL_DEBIASED, layer::Averaging::kExponentialDebiased},
    {v1::AVERAGING_CUMULATIVE, layer::Averaging::kCumulative},
    {v1::AVERAGING_POOLED, layer::Averaging::kPooled},
};

struct VarianceEstimatorPair {
  v1::VarianceEstimator wire;
  layer::VarianceEstimator value;
};
constexpr VarianceEstimatorPair kVarianceEstimators[] = {
    {v1::VARIANCE_ESTIMATOR_POPULATION, layer::VarianceEstimator::kPopulation},
    {v1::VARIANCE_ESTIMATOR_SAMPLE, layer::VarianceEstimator::kSample},
};

struct TrainingStatisticsPair {
  v1::TrainingStatistics wire;
  layer::TrainingStatistics value;
};
constexpr TrainingStatisticsPair kTrainingStatistics[] = {
    {v1::TRAINING_STATISTICS_BATCH, layer::TrainingStatistics::kBatch},
    {v1::TRAINING_STATISTICS_RUNNING_BEFORE_UPDATE, layer::TrainingStatistics::kRunningBeforeUpdate},
    {v1::TRAINING_STATISTICS_RUNNING_AFTER_UPDATE, layer::TrainingStatistics::kRunningAfterUpdate},
};

struct NonFinitePolicyPair {
  v1::NonFinitePolicy wire;
  layer::NonFinitePolicy value;
};
constexpr NonFinitePolicyPair kNonFinitePolicies[] = {
    {v1::NON_FINITE_POLICY_REJECT, layer::NonFinitePolicy::kReject},
    {v1::NON_FINITE_POLICY_SKIP_CHANNEL, layer::NonFinitePolicy::kSkipChannel},
    {v1::NON_FINITE_POLICY_PROPAGATE, layer::NonFinitePolicy::kPropagate},
};

// Sets `value` to what `wire` says; UNSPECIFIED (0) leaves it as it is.
template <typename Pairs, typename Wire, typename Value>
absl::Status FromWire(absl::string_view layer_name, absl::string_view field, const Pairs& pairs, Wire wire,
                      Value* value) {
  if (static_cast<int>(wire) == 0) return absl::OkStatus();
  for (const auto& pair : pairs) {
    if (pair.wire == wire) {
      *value = pair.value;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_name), field, " is ", static_cast<int>(wire),
                                                 ", which this server does not know"));
}

template <typename Pairs, typename Value>
auto ToWire(const Pairs& pairs, Value value) {
  for (const auto& pair : pairs) {
    if (pair.value == value) return pair.wire;
  }
  return decltype(pairs[0].wire){};
}

absl::Status ApplyOverrides(absl::string_view layer_name, const v1::LayerConfig& overrides,
                            layer::LayerConfig* config) {
  config->num_channels = overrides.num_channels();
  if (overrides.has_eps()) config->eps = overrides.eps();
  if (overrides.has_update_weight()) config->update_weight = overrides.update_weight();
  if (overrides.has_affine()) config->affine = overrides.affine();
  if (overrides.has_track_running_stats()) config->track_running_stats = overrides.track_running_stats();
  if (overrides.has_clip()) config->clip = overrides.clip();
  if (overrides.has_frozen()) config->frozen = overrides.frozen();
  absl::Status status = FromWire(layer_name, "averaging", kAveragings, overrides.averaging(), &config->averaging);
  status.Update(FromWire(layer_name, "running_var_estimator", kVarianceEstimators, overrides.running_var_estimator(),
                         &config->running_var_estimator));
  status.Update(FromWire(layer_name, "normalize_training_with", kTrainingStatistics,
                         overrides.normalize_training_with(), &config->normalize_training_with));
  status.Update(FromWire(layer_name, "non_finite_policy", kNonFinitePolicies, overrides.non_finite_policy(),
                         &config->non_finite_policy));
  return status;
}

// Whether the message holds a value for the field that an update may name. Other names are for the registry to refuse.
bool HoldsValue(const v1::LayerConfig& config, absl::string_view field) {
  if (field == "eps") return config.has_eps();
  if (field == "update_weight") return config.has_update_weight();
  if (field == "normalize_training_with") {
    return config.normalize_training_with() != v1::TRAINING_STATISTICS_UNSPECIFIED;
  }
  if (field == "non_finite_policy") return config.non_finite_policy() != v1::NON_FINITE_POLICY_UNSPECIFIED;
  if (field == "frozen") return config.has_frozen();
  return true;
}

std::vector<double> ToVector(const google::protobuf::RepeatedField<double>& field) {
  return {field.begin(), field.end()};
}

void ToProto(const layer::LayerConfig& config, const layer::Statistics& statistics, const layer::Affine& affine,
             v1::LayerState* state) {
  state->mutable_running_mean()->Assign(statistics.running_mean.begin(), statistics.running_mean.end());
  state->mutable_running_var()->Assign(statistics.running_var.begin(), statistics.running_var.end());
  state->mutable_sample_count()->Assign(statistics.sample_count.begin(), statistics.sample_count.end());
  state->set_num_batches_tracked(statistics.num_batches_tracked);
  state->mutable_skipped_batches()->Assign(statistics.skipped_batches.begin(), statistics.skipped_batches.end());
  state->mutable_gamma()->Assign(affine.gamma.begin(), affine.gamma.end());
  state->mutable_beta()->Assign(affine.beta.begin(), affine.beta.end());
  auto* const inv_std = state->mutable_inv_std();
  inv_std->Resize(static_cast<int>(statistics.running_var.size()), 0);
  kernels::InverseStd(statistics.running_var, config.eps,
                      absl::MakeSpan(inv_std->mutable_data(), statistics.running_var.size()));
}

}  // namespace

absl::StatusOr<layer::LayerConfig> MergeConfig(absl::string_view layer_name, absl::string_view preset,
                                               const v1::LayerConfig& overrides) {
  absl::StatusOr<layer::LayerConfig> config = layer::PresetConfig(preset);
  if (!config.ok()) return layer::ForLayer(layer_name, config.status());
  if (absl::Status status = ApplyOverrides(layer_name, overrides, &*config); !status.ok()) return status;
  // Only here is it known whether the caller said the weight or the preset did.
  if (overrides.has_update_weight() && !layer::UsesUpdateWeight(config->averaging)) {
    return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_name), "update_weight means nothing for ",
                                                   v1::Averaging_Name(ToWire(kAveragings, config->averaging)),
                                                   ": leave it out"));
  }
  return config;
}

absl::StatusOr<registry::ConfigUpdate> ToConfigUpdate(absl::string_view layer_name, const v1::LayerConfig& config,
                                                      const google::protobuf::FieldMask& mask) {
  if (mask.paths().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(layer::LayerPrefix(layer_name), "update_mask is empty: want the names of the fields to change"));
  }
  registry::ConfigUpdate update;
  for (const std::string& field : mask.paths()) {
    if (!HoldsValue(config, field)) {
      return absl::InvalidArgumentError(
          absl::StrCat(layer::LayerPrefix(layer_name), "update_mask names ", field, ", but config has no ", field));
    }
    update.fields.push_back(field);
  }
  if (absl::Status status = ApplyOverrides(layer_name, config, &update.values); !status.ok()) return status;
  return update;
}

layer::StateUpdate ToStateUpdate(const v1::LayerState& state) {
  layer::StateUpdate update;
  update.running_mean = ToVector(state.running_mean());
  update.running_var = ToVector(state.running_var());
  update.sample_count = ToVector(state.sample_count());
  update.num_batches_tracked = state.num_batches_tracked();
  update.skipped_batches.assign(state.skipped_batches().begin(), state.skipped_batches().end());
  update.gamma = ToVector(state.gamma());
  update.beta = ToVector(state.beta());
  return update;
}

absl::StatusOr<v1::LayerView> ToLayerView(v1::LayerView view) {
  switch (view) {
    case v1::LAYER_VIEW_UNSPECIFIED:
    case v1::LAYER_VIEW_CONFIG:
      return v1::LAYER_VIEW_CONFIG;
    case v1::LAYER_VIEW_STATE:
      return v1::LAYER_VIEW_STATE;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("view is ", static_cast<int>(view), ": want LAYER_VIEW_CONFIG or LAYER_VIEW_STATE"));
  }
}

void ToProto(absl::Time time, google::protobuf::Timestamp* proto) {
  const int64_t seconds = absl::ToUnixSeconds(time);  // Rounds down, as Timestamp wants it.
  proto->set_seconds(seconds);
  proto->set_nanos(static_cast<int32_t>(absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(seconds))));
}

v1::LayerConfig ToProto(const layer::LayerConfig& config) {
  v1::LayerConfig proto;
  proto.set_num_channels(config.num_channels);
  proto.set_eps(config.eps);
  proto.set_averaging(ToWire(kAveragings, config.averaging));
  if (layer::UsesUpdateWeight(config.averaging)) proto.set_update_weight(config.update_weight);
  proto.set_running_var_estimator(ToWire(kVarianceEstimators, config.running_var_estimator));
  proto.set_normalize_training_with(ToWire(kTrainingStatistics, config.normalize_training_with));
  proto.set_affine(config.affine);
  proto.set_track_running_stats(config.track_running_stats);
  if (config.clip.has_value()) proto.set_clip(*config.clip);
  proto.set_non_finite_policy(ToWire(kNonFinitePolicies, config.non_finite_policy));
  proto.set_frozen(config.frozen);
  return proto;
}

void ToProto(const layer::LayerSnapshot& snapshot, v1::LayerView view, v1::Layer* layer) {
  layer->set_name(snapshot.name);
  layer->set_uid(snapshot.uid);
  layer->set_preset(snapshot.preset);
  *layer->mutable_config() = ToProto(*snapshot.config);
  if (view == v1::LAYER_VIEW_STATE) {
    ToProto(*snapshot.config, *snapshot.statistics, *snapshot.affine, layer->mutable_state());
  }
  layer->set_version(snapshot.version);
  layer->set_content_hash(snapshot.content_hash);
  layer->set_etag(snapshot.Etag());
  ToProto(snapshot.create_time, layer->mutable_create_time());
  ToProto(snapshot.update_time, layer->mutable_update_time());
  layer->set_affine_group(snapshot.affine_group);
}

}  // namespace normd::service
