#include "server/registry/version_pin.h"

#include "absl/strings/str_cat.h"
#include "server/base/quoted.h"
#include "server/layer/layer_error.h"

namespace normd::registry {
namespace {

absl::Status CheckVersion(const layer::LayerSnapshot& snapshot, absl::string_view field, int64_t version,
                          absl::StatusCode otherwise) {
  const std::string prefix = layer::LayerPrefix(snapshot.name);
  if (version < 0) return absl::InvalidArgumentError(absl::StrCat(prefix, field, " is ", version, ", want >= 0"));
  if (version == 0 || version == snapshot.version) return absl::OkStatus();
  return absl::Status(otherwise, absl::StrCat(prefix, "is at version ", snapshot.version, ", want ", version));
}

}  // namespace

absl::Status CheckVersionPin(const layer::LayerSnapshot& snapshot, int64_t version) {
  return CheckVersion(snapshot, "version", version, absl::StatusCode::kFailedPrecondition);
}

absl::Status CheckExpectedVersion(const layer::LayerSnapshot& snapshot, int64_t expected_version) {
  return CheckVersion(snapshot, "expected_version", expected_version, absl::StatusCode::kAborted);
}

absl::Status CheckEtag(const layer::LayerSnapshot& snapshot, absl::string_view etag) {
  if (etag.empty() || etag == snapshot.Etag()) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(layer::LayerPrefix(snapshot.name), "has etag '", snapshot.Etag(), "', got ",
                                         base::Quoted(etag),
                                         ": the settings have changed; read the layer and decide again"));
}

}  // namespace normd::registry
