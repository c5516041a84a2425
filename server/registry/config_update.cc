#include "server/registry/config_update.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "server/base/quoted.h"

namespace normd::registry {
namespace {

using layer::LayerConfig;

struct MutableField {
  absl::string_view name;
  void (*take_over)(const LayerConfig& values, LayerConfig* config);
};

constexpr MutableField kMutableFields[] = {
    {"eps", [](const LayerConfig& values, LayerConfig* config) { config->eps = values.eps; }},
    {"update_weight",
     [](const LayerConfig& values, LayerConfig* config) { config->update_weight = values.update_weight; }},
    {"normalize_training_with",
     [](const LayerConfig& values, LayerConfig* config) {
       config->normalize_training_with = values.normalize_training_with;
     }},
    {"clip", [](const LayerConfig& values, LayerConfig* config) { config->clip = values.clip; }},
    {"non_finite_policy",
     [](const LayerConfig& values, LayerConfig* config) { config->non_finite_policy = values.non_finite_policy; }},
    {"frozen", [](const LayerConfig& values, LayerConfig* config) { config->frozen = values.frozen; }},
};

constexpr absl::string_view kImmutableFields[] = {"num_channels", "averaging", "running_var_estimator", "affine",
                                                  "track_running_stats"};

std::string MutableNames() {
  return absl::StrJoin(kMutableFields, ", ",
                       [](std::string* out, const MutableField& field) { absl::StrAppend(out, field.name); });
}

const MutableField* FindMutable(absl::string_view name) {
  const auto* const found = std::find_if(std::begin(kMutableFields), std::end(kMutableFields),
                                         [&](const MutableField& field) { return field.name == name; });
  return found == std::end(kMutableFields) ? nullptr : found;
}

}  // namespace

absl::Status CheckUpdateFields(absl::Span<const std::string> fields) {
  if (fields.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("update_mask is empty, want some of ", MutableNames()));
  }
  for (const std::string& name : fields) {
    if (FindMutable(name) != nullptr) continue;
    if (std::find(std::begin(kImmutableFields), std::end(kImmutableFields), name) != std::end(kImmutableFields)) {
      return absl::FailedPreconditionError(
          absl::StrCat(name, " is immutable; create a new layer with it, with this one's state as initial_state"));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("update_mask names ", base::Quoted(name), ", want some of ", MutableNames()));
  }
  return absl::OkStatus();
}

absl::Status CheckFieldsApply(const ConfigUpdate& update, const layer::LayerConfig& config) {
  if (!layer::UsesUpdateWeight(config.averaging) &&
      std::find(update.fields.begin(), update.fields.end(), "update_weight") != update.fields.end()) {
    return absl::InvalidArgumentError(
        "update_weight is given, want none: it means something only with averaging EXPONENTIAL and "
        "EXPONENTIAL_DEBIASED");
  }
  return absl::OkStatus();
}

void TakeOverFields(const ConfigUpdate& update, layer::LayerConfig* config) {
  for (const std::string& name : update.fields) FindMutable(name)->take_over(update.values, config);
}

}  // namespace normd::registry
