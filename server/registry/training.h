#ifndef NORMD_SERVER_REGISTRY_TRAINING_H_
#define NORMD_SERVER_REGISTRY_TRAINING_H_

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"
#include "server/layer/tensor.h"
#include "server/registry/call_control.h"
#include "server/registry/chunk_normalizer.h"
#include "server/registry/committer.h"
#include "server/registry/layer_registry.h"
#include "server/registry/optimizer.h"

// The calls that change a layer by tensors. Statuses as proto/normd/v1/normalization_service.proto says; on an error
// the layer has not changed, though an output buffer may have been written.
namespace normd::registry {

struct TrainStepInput {
  std::string layer;
  layer::TensorView x;
  // Both empty, or new values of the layer's gamma and beta.
  std::vector<double> gamma;
  std::vector<double> beta;
  bool skip_update = false;
  std::string request_id;
};

struct TrainStepResult {
  std::vector<double> batch_mean;
  // Population variance.
  std::vector<double> batch_var;
  std::vector<int64_t> skipped_channels;
  int64_t version = 0;
  std::string content_hash;
  int64_t num_batches_tracked = 0;
  bool replayed = false;
  // The result may not leave the server before this is stored.
  PendingCommitPtr stored;
};

// Normalizes `x` into `y` (the size of x.data and aligned to the element, or null for no output; not overlapping x) and
// folds the batch into the layer. y is computed with the gamma and beta of the version that the step made.
absl::StatusOr<TrainStepResult> TrainStep(const LayerRegistry& registry, const TrainStepInput& input,
                                          const CallControl& control, char* y);

// The batch of a TrainStep as it comes in chunks, cut anywhere between two elements. Not thread-safe.
class BatchAccumulator {
 public:
  // `x` says all but the data. Errors as TrainStep's.
  static absl::StatusOr<BatchAccumulator> Create(const LayerRegistry& registry, const TrainStepInput& input);

  // Bytes of an index of the outermost extent: what Add wants multiples of.
  int64_t row_bytes() const { return ncs_.num_channels * ncs_.inner * element_bytes(); }
  int64_t element_bytes() const { return layer::ElementBytes(dtype_); }
  // Bytes of the batch that have not been added yet.
  int64_t remaining_bytes() const { return ncs_.size() * element_bytes() - added_bytes_; }

  // Takes the next rows in, aligned to the element. REQUIRES: whole rows, and no more than remaining_bytes.
  void Add(absl::Span<const char> rows, int threads);

  struct Result {
    TrainStepResult step;
    // Makes y of the chunks when they come once more.
    ChunkNormalizer normalizer;
  };
  // Folds the batch into the layer. REQUIRES: all of it was added. Once.
  absl::StatusOr<Result> Commit(const LayerRegistry& registry, const TrainStepInput& input,
                                const CallControl& control) const;

 private:
  BatchAccumulator(const layer::NcsShape& ncs, layer::DType dtype);

  layer::NcsShape ncs_;
  layer::DType dtype_;
  kernels::MomentsAccumulator moments_;
  int64_t added_bytes_ = 0;
};

struct BackwardInput {
  enum class Mode { kTraining, kFrozen };
  std::string layer;
  layer::TensorView x;
  layer::TensorView dy;
  Mode mode = Mode::kTraining;
  // Training mode: as TrainStep returned them. Frozen mode: empty.
  std::vector<double> batch_mean;
  std::vector<double> batch_var;
  // Empty: the layer's.
  std::vector<double> gamma;
  // Absent: only gradients.
  std::optional<OptimizerStep> optimizer;
  // Frozen mode: version that must be current; 0: any.
  int64_t version = 0;
  std::string request_id;
};

struct BackwardResult {
  // Empty without affine.
  std::vector<double> dgamma;
  std::vector<double> dbeta;
  // After the optimizer's step; empty without one.
  std::vector<double> gamma;
  std::vector<double> beta;
  int64_t version = 0;
  std::string content_hash;
  bool replayed = false;
  // As in TrainStepResult.
  PendingCommitPtr stored;
};

// Writes the gradient of x into `dx` (the size of x.data and aligned, or null; may not overlap the inputs) and applies
// the optimizer's step to the layer's gamma and beta.
absl::StatusOr<BackwardResult> Backward(const LayerRegistry& registry, const BackwardInput& input,
                                        const CallControl& control, char* dx);

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_TRAINING_H_
