#ifndef NORMD_SERVER_REGISTRY_VERSION_PIN_H_
#define NORMD_SERVER_REGISTRY_VERSION_PIN_H_

#include <cstdint>

#include "absl/status/status.h"
#include "server/layer/layer_state.h"

namespace normd::registry {

// OK if a reader's `version` is 0 or the snapshot's; else FAILED_PRECONDITION. INVALID_ARGUMENT: negative.
absl::Status CheckVersionPin(const layer::LayerSnapshot& snapshot, int64_t version);

// OK if a writer's `expected_version` is 0 or the snapshot's; else ABORTED. INVALID_ARGUMENT: negative.
absl::Status CheckExpectedVersion(const layer::LayerSnapshot& snapshot, int64_t expected_version);

// OK if `etag` is empty or the snapshot's; else ABORTED.
absl::Status CheckEtag(const layer::LayerSnapshot& snapshot, absl::string_view etag);

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_VERSION_PIN_H_
