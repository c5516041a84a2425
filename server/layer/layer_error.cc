#include "server/layer/layer_error.h"

#include "absl/strings/str_cat.h"

namespace normd::layer {

std::string LayerPrefix(absl::string_view layer_name) { return absl::StrCat("layer '", layer_name, "': "); }

absl::Status WithPrefix(absl::string_view prefix, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(prefix, status.message()));
}

absl::Status ForLayer(absl::string_view layer_name, const absl::Status& status) {
  return WithPrefix(LayerPrefix(layer_name), status);
}

}  // namespace normd::layer
