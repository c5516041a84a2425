#ifndef NORMD_LAYER_H_
#define NORMD_LAYER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

// What a layer is: plain values that mirror proto/normd/v1/resources.proto, where each one is explained.
namespace normd {

enum class Averaging { kExponential, kExponentialDebiased, kCumulative, kPooled };
enum class VarianceEstimator { kPopulation, kSample };
enum class TrainingStatistics { kBatch, kRunningBeforeUpdate, kRunningAfterUpdate };
enum class NonFinitePolicy { kReject, kSkipChannel, kPropagate };

// Settings of a layer. In CreateLayer and UpdateLayer an absent field is left to the preset, or as it is; in what the
// server returns everything is present that applies.
struct LayerConfig {
  // C; required to create. Immutable.
  int64_t num_channels = 0;
  // Added to the variance before the square root; > 0.
  std::optional<double> eps;
  // Immutable.
  std::optional<Averaging> averaging;
  // Weight of the new batch in the running statistics, in [0, 1] (PyTorch's momentum; one minus Keras's).
  std::optional<double> update_weight;
  // Immutable.
  std::optional<VarianceEstimator> running_var_estimator;
  std::optional<TrainingStatistics> normalize_training_with;
  // Whether there are gamma and beta. Immutable.
  std::optional<bool> affine;
  // Immutable.
  std::optional<bool> track_running_stats;
  // Bound on |x_hat|.
  std::optional<double> clip;
  std::optional<NonFinitePolicy> non_finite_policy;
  // Nothing of the layer changes but this.
  std::optional<bool> frozen;
};

// What a layer has learned. Lists have num_channels entries, or none where they do not apply.
struct LayerState {
  std::vector<double> running_mean;
  std::vector<double> running_var;
  std::vector<double> sample_count;
  int64_t num_batches_tracked = 0;
  std::vector<int64_t> skipped_batches;
  std::vector<double> gamma;
  std::vector<double> beta;
  // 1 / sqrt(running_var + eps). Only in what the server returns.
  std::vector<double> inv_std;
};

// A layer as the server knows it.
struct Layer {
  std::string name;
  std::string uid;
  std::string preset;
  LayerConfig config;
  // Absent unless asked for.
  std::optional<LayerState> state;
  int64_t version = 0;
  std::string content_hash;
  std::string etag;
  absl::Time create_time;
  absl::Time update_time;
  // Layers with the same one share gamma, beta and the optimizer's state; empty: the layer has its own.
  std::string affine_group;
};

// Optimizer steps that Backward can apply on the server; torch.optim.SGD and torch.optim.Adam / AdamW.
struct Sgd {
  double learning_rate = 0;
  double momentum = 0;
  double dampening = 0;
  bool nesterov = false;
  double weight_decay = 0;
};

struct Adam {
  double learning_rate = 0;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0;
  // AdamW.
  bool decoupled_weight_decay = false;
};

}  // namespace normd

#endif  // NORMD_LAYER_H_
