#include "client/cli/state_json.h"

#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "client/cli/names.h"

namespace normd::cli {
namespace {

std::string ToText(absl::Time time) { return absl::FormatTime("%Y-%m-%dT%H:%M:%E*SZ", time, absl::UTCTimeZone()); }

bool ParseNumber(const Json& json, double* value) {
  if (json.is_number()) {
    *value = json.get<double>();
    return true;
  }
  if (json == "NaN") *value = std::numeric_limits<double>::quiet_NaN();
  if (json == "Infinity") *value = std::numeric_limits<double>::infinity();
  if (json == "-Infinity") *value = -std::numeric_limits<double>::infinity();
  return json == "NaN" || json == "Infinity" || json == "-Infinity";
}

bool ParseList(const Json& state, const char* key, std::vector<double>* values) {
  if (!state.contains(key)) return true;
  if (!state[key].is_array()) return false;
  for (const Json& entry : state[key]) {
    if (!ParseNumber(entry, &values->emplace_back())) return false;
  }
  return true;
}

bool ParseInteger(const Json& json, int64_t* value) {
  if (!json.is_number_integer()) return false;
  *value = json.get<int64_t>();
  return true;
}

}  // namespace

Json ToJson(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return value;
}

Json ToJson(const std::vector<double>& values) {
  Json out = Json::array();
  for (const double value : values) out.push_back(ToJson(value));
  return out;
}

Json ToJson(const LayerConfig& config) {
  Json out;
  out["num_channels"] = config.num_channels;
  if (config.eps) out["eps"] = ToJson(*config.eps);
  if (config.averaging) out["averaging"] = NameOf(AveragingNames(), *config.averaging);
  if (config.update_weight) out["update_weight"] = ToJson(*config.update_weight);
  if (config.running_var_estimator) {
    out["running_var_estimator"] = NameOf(VarianceEstimatorNames(), *config.running_var_estimator);
  }
  if (config.normalize_training_with) {
    out["normalize_training_with"] = NameOf(TrainingStatisticsNames(), *config.normalize_training_with);
  }
  if (config.affine) out["affine"] = *config.affine;
  if (config.track_running_stats) out["track_running_stats"] = *config.track_running_stats;
  if (config.clip) out["clip"] = ToJson(*config.clip);
  if (config.non_finite_policy) out["non_finite_policy"] = NameOf(NonFinitePolicyNames(), *config.non_finite_policy);
  if (config.frozen) out["frozen"] = *config.frozen;
  return out;
}

Json ToJson(const LayerState& state) {
  Json out;
  out["running_mean"] = ToJson(state.running_mean);
  out["running_var"] = ToJson(state.running_var);
  out["sample_count"] = ToJson(state.sample_count);
  out["num_batches_tracked"] = state.num_batches_tracked;
  out["skipped_batches"] = state.skipped_batches;
  out["gamma"] = ToJson(state.gamma);
  out["beta"] = ToJson(state.beta);
  out["inv_std"] = ToJson(state.inv_std);
  return out;
}

Json ToJson(const Layer& layer) {
  Json out;
  out["name"] = layer.name;
  out["uid"] = layer.uid;
  out["preset"] = layer.preset;
  out["config"] = ToJson(layer.config);
  if (layer.state) out["state"] = ToJson(*layer.state);
  out["version"] = layer.version;
  out["content_hash"] = layer.content_hash;
  out["etag"] = layer.etag;
  out["create_time"] = ToText(layer.create_time);
  out["update_time"] = ToText(layer.update_time);
  if (!layer.affine_group.empty()) out["affine_group"] = layer.affine_group;
  return out;
}

Json ToJson(const Snapshot& snapshot) {
  Json out;
  out["name"] = snapshot.name;
  if (!snapshot.selection.layer.empty()) out["layer"] = snapshot.selection.layer;
  out["prefix"] = snapshot.selection.prefix;
  out["num_layers"] = snapshot.num_layers;
  out["create_time"] = ToText(snapshot.create_time);
  return out;
}

absl::StatusOr<LayerState> ParseState(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  if (json.contains("state") && !json["state"].is_object()) return absl::InvalidArgumentError("state is no object");
  const Json& state = json.contains("state") ? json["state"] : json;
  if (!state.contains("running_mean") && !state.contains("gamma")) {
    return absl::InvalidArgumentError("neither running_mean nor gamma in it; want what `normctl layer get` prints");
  }
  LayerState out;
  const struct {
    const char* key;
    std::vector<double>* values;
  } lists[] = {{"running_mean", &out.running_mean},
               {"running_var", &out.running_var},
               {"sample_count", &out.sample_count},
               {"gamma", &out.gamma},
               {"beta", &out.beta}};
  for (const auto& list : lists) {
    if (!ParseList(state, list.key, list.values)) {
      return absl::InvalidArgumentError(absl::StrCat(list.key, " is no list of numbers"));
    }
  }
  if (state.contains("num_batches_tracked") && !ParseInteger(state["num_batches_tracked"], &out.num_batches_tracked)) {
    return absl::InvalidArgumentError("num_batches_tracked is no integer");
  }
  return out;
}

}  // namespace normd::cli
