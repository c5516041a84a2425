#ifndef NORMD_SERVER_LAYER_LAYER_ERROR_H_
#define NORMD_SERVER_LAYER_LAYER_ERROR_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace normd::layer {

// "layer 'conv1': ", the start of every message about a layer.
std::string LayerPrefix(absl::string_view layer_name);

// `status` with `prefix` before its message; OK stays OK.
absl::Status WithPrefix(absl::string_view prefix, const absl::Status& status);

// The same with LayerPrefix.
absl::Status ForLayer(absl::string_view layer_name, const absl::Status& status);

}  // namespace normd::layer

#endif  // NORMD_SERVER_LAYER_LAYER_ERROR_H_
