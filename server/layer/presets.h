#ifndef NORMD_SERVER_LAYER_PRESETS_H_
#define NORMD_SERVER_LAYER_PRESETS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/layer/layer_config.h"

namespace normd::layer {

inline constexpr absl::string_view kDefaultPreset = "reference";

// The settings of the preset `name`, with num_channels 0. An empty name means kDefaultPreset. INVALID_ARGUMENT, listing
// the names there are: unknown preset. docs/batch_norm.md holds each framework's rule and where it was read.
absl::StatusOr<LayerConfig> PresetConfig(absl::string_view name);

// Every preset's name, in the order that the docs use.
std::vector<std::string> PresetNames();

}  // namespace normd::layer

#endif  // NORMD_SERVER_LAYER_PRESETS_H_
