#ifndef NORMD_SERVER_SERVICE_LAYER_CONVERSION_H_
#define NORMD_SERVER_SERVICE_LAYER_CONVERSION_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/field_mask.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "normd/v1/resources.pb.h"
#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"
#include "server/registry/layer_registry.h"

namespace normd::service {

// The settings of `preset` (empty: the default one) with every field that `overrides` holds put over them.
// INVALID_ARGUMENT: unknown preset, unknown enum value, or an update_weight for an averaging that has none. Ranges are
// checked later. Messages name `layer_name`.
absl::StatusOr<layer::LayerConfig> MergeConfig(absl::string_view layer_name, absl::string_view preset,
                                               const v1::LayerConfig& overrides);

// The fields that `mask` names with their values of `config`. INVALID_ARGUMENT: an empty mask, or a named field that
// `config` does not hold (but clip, which is then removed). Which fields there are is checked later.
absl::StatusOr<registry::ConfigUpdate> ToConfigUpdate(absl::string_view layer_name, const v1::LayerConfig& config,
                                                      const google::protobuf::FieldMask& mask);

// Lengths and ranges are checked later.
layer::StateUpdate ToStateUpdate(const v1::LayerState& state);

// UNSPECIFIED becomes CONFIG. INVALID_ARGUMENT: unknown value.
absl::StatusOr<v1::LayerView> ToLayerView(v1::LayerView view);

void ToProto(absl::Time time, google::protobuf::Timestamp* proto);

v1::LayerConfig ToProto(const layer::LayerConfig& config);

// Fills the empty message `layer` with what `view` shows of the snapshot.
void ToProto(const layer::LayerSnapshot& snapshot, v1::LayerView view, v1::Layer* layer);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_LAYER_CONVERSION_H_
