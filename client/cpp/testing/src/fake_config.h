#ifndef NORMD_CLIENT_CPP_TESTING_SRC_FAKE_CONFIG_H_
#define NORMD_CLIENT_CPP_TESTING_SRC_FAKE_CONFIG_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/field_mask.pb.h"
#include "normd/v1/resources.pb.h"

namespace normd::testing {

// `config` with what it leaves to the preset `name`; empty: reference. INVALID_ARGUMENT: no such preset, or values that
// a layer cannot have. UNIMPLEMENTED: what a FakeServer does not do.
absl::StatusOr<v1::LayerConfig> ResolveConfig(const std::string& preset, const v1::LayerConfig& config);

// Changes what `mask` names to what it is in `values`. FAILED_PRECONDITION: it is immutable. Otherwise as
// ResolveConfig.
absl::Status UpdateConfig(const google::protobuf::FieldMask& mask, const v1::LayerConfig& values,
                          v1::LayerConfig* config);

// The state that a layer starts with.
v1::LayerState InitialState(const v1::LayerConfig& config);
// Overwrites what `given` holds. INVALID_ARGUMENT, and nothing has changed: lists of another length than num_channels,
// or that do not apply.
absl::Status SetState(const v1::LayerConfig& config, const v1::LayerState& given, v1::LayerState* state);

}  // namespace normd::testing

#endif  // NORMD_CLIENT_CPP_TESTING_SRC_FAKE_CONFIG_H_
