#ifndef NORMD_SERVER_REGISTRY_OPTIMIZER_H_
#define NORMD_SERVER_REGISTRY_OPTIMIZER_H_

#include <variant>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "server/layer/layer_state.h"

namespace normd::registry {

// As torch.optim.SGD; see Sgd in proto/normd/v1/normalization_service.proto.
struct SgdStep {
  double learning_rate = 0;
  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;
  double weight_decay = 0;
};

// As torch.optim.Adam, or AdamW with decoupled_weight_decay.
struct AdamStep {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  bool decoupled_weight_decay = false;
};

using OptimizerStep = std::variant<SgdStep, AdamStep>;

// INVALID_ARGUMENT, naming the field, its value and its range.
absl::Status ValidateOptimizer(const OptimizerStep& step);

// Moves gamma and beta against the gradients and brings `state` up to date. A state of the other kind is started anew.
// A channel whose gradient is not finite keeps its gamma, beta and buffers when `skip_non_finite` is set. Pure: the
// same inputs give the same bits. REQUIRES lengths equal num_channels.
void ApplyOptimizer(const OptimizerStep& step, absl::Span<const double> dgamma, absl::Span<const double> dbeta,
                    bool skip_non_finite, layer::OptimizerState* state, layer::Affine* affine);

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_OPTIMIZER_H_
