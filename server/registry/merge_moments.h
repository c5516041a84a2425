#ifndef NORMD_SERVER_REGISTRY_MERGE_MOMENTS_H_
#define NORMD_SERVER_REGISTRY_MERGE_MOMENTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/layer/layer_state.h"
#include "server/registry/call_control.h"
#include "server/registry/committer.h"
#include "server/registry/layer_registry.h"

namespace normd::registry {

// What a set of values says about each channel. Lists have num_channels entries, or none where that is said.
struct Moments {
  // One entry counts for every channel. 0: the channel sits out, its other entries are not looked at.
  std::vector<int64_t> count = {};
  std::vector<double> mean = {};
  // Sum of squared deviations from the mean.
  std::vector<double> m2 = {};
  // Or empty.
  std::vector<double> min = {};
  std::vector<double> max = {};
  // Values not counted as they were NaN or infinite; or empty.
  std::vector<int64_t> non_finite_count = {};
};

struct MergeMomentsInput {
  std::string layer;
  Moments moments;
  // Empty, with sequence 0: nobody in particular.
  std::string contributor;
  int64_t sequence = 0;
  std::string request_id;
};

struct MergeMomentsResult {
  // The version that the merge made; if replayed, the newest one.
  std::shared_ptr<const layer::LayerSnapshot> snapshot;
  bool replayed = false;
  // The result may not leave the server before this is stored.
  PendingCommitPtr stored;
};

// Folds moments into the layer as TrainStep folds a batch with these values in. Statuses as
// proto/normd/v1/normalization_service.proto says; on an error the layer has not changed. Thread-safe.
absl::StatusOr<MergeMomentsResult> MergeMoments(const LayerRegistry& registry, const MergeMomentsInput& input,
                                                const CallControl& control);

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_MERGE_MOMENTS_H_
