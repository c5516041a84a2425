#ifndef NORMD_LAYER_H_
#define NORMD_LAYER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

// What a layer is: plain values that mirror proto/normd/v1/resources.proto. docs/batch_norm.md has the formulas.
namespace normd {
inline namespace abi_0_1 {

// How the running statistics follow the batches.
enum class Averaging {
  kExponential,          // running = (1 - update_weight) * running + update_weight * batch.
  kExponentialDebiased,  // The same without the bias towards the start; batch t weighs w / (1 - (1 - w)^t).
  kCumulative,           // The mean of the batch statistics: batch t weighs 1/t (PyTorch's momentum=None).
  kPooled,               // The exact mean and variance of every value seen (StandardScaler, observations in RL).
};

// Which estimate of the variance goes into running_var. The training output always uses the population variance.
enum class VarianceEstimator {
  kPopulation,  // Divides by n.
  kSample,      // Divides by n - 1; one value per channel is refused in training, unless averaging is kPooled.
};

// Which statistics normalize the output of Client::TrainStep.
enum class TrainingStatistics {
  kBatch,                // Those of the batch: batch normalization.
  kRunningBeforeUpdate,  // The running ones, before the batch is folded in.
  kRunningAfterUpdate,   // The running ones with the batch in them: filters in reinforcement learning.
};

// What training does with a channel that holds a NaN or an infinity. In inference they pass through.
enum class NonFinitePolicy {
  kReject,       // INVALID_ARGUMENT, and nothing changes.
  kSkipChannel,  // The channel keeps its state and gets no gradient; the others go on.
  kPropagate,    // The channel's statistics become NaN until they are set or reset.
};

// Settings of a layer. In CreateLayer and UpdateLayer an absent field is left to the preset, or as it is; in what the
// server returns everything is present that applies.
struct LayerConfig {
  // C; required to create. Immutable.
  int64_t num_channels = 0;
  // Added to the variance before the square root; > 0.
  std::optional<double> eps;
  // How running statistics follow the batches. Immutable.
  std::optional<Averaging> averaging;
  // Weight of the new batch in the running statistics, in [0, 1] (PyTorch's momentum; one minus Keras's).
  std::optional<double> update_weight;
  // Which variance goes into running_var. Immutable.
  std::optional<VarianceEstimator> running_var_estimator;
  std::optional<TrainingStatistics> normalize_training_with;  // Which statistics normalize TrainStep's output.
  // Whether there are gamma and beta. Immutable.
  std::optional<bool> affine;
  // Whether there are running statistics; without, Infer normalizes with those of its own input. Immutable.
  std::optional<bool> track_running_stats;
  // Bound on |x_hat|, before gamma and beta; > 0. In UpdateLayer, name it and leave it absent to remove the bound.
  std::optional<double> clip;
  std::optional<NonFinitePolicy> non_finite_policy;  // What a NaN or an infinity in training does.
  // Nothing of the layer changes but this.
  std::optional<bool> frozen;
};

// What a layer has learned. Lists have num_channels entries, or none where they do not apply.
struct LayerState {
  std::vector<double> running_mean;      // Starts at 0. None without track_running_stats.
  std::vector<double> running_var;       // In the layer's estimator, >= 0. Starts at 1.
  std::vector<double> sample_count;      // Values folded into each channel; fractional only where a prior was set.
  int64_t num_batches_tracked = 0;       // Steps and merges folded in since creation or the last reset.
  std::vector<int64_t> skipped_batches;  // Of those, how many each channel sat out (kSkipChannel); none: 0.
  std::vector<double> gamma;             // Learned scale. Starts at 1. None without affine.
  std::vector<double> beta;              // Learned shift. Starts at 0.
  // 1 / sqrt(running_var + eps). Only in what the server returns.
  std::vector<double> inv_std;
};

// A layer as the server knows it.
struct Layer {
  std::string name;    // Dotted path, at most 256 bytes: "resnet50.layer1.0.bn1". Unique on the server.
  std::string uid;     // Tells this layer from a later one of its name.
  std::string preset;  // It was created with this.
  LayerConfig config;  // Its settings.
  // Absent unless asked for.
  std::optional<LayerState> state;
  int64_t version = 0;       // Starts at 1 and grows by 1 with every change of settings or state.
  std::string content_hash;  // SHA-256 in hex; layers with the same one give the same output.
  std::string etag;          // Changes with the settings and not with the state.
  absl::Time create_time;    // When it was created.
  absl::Time update_time;    // When it last changed.
  // Layers with the same one share gamma, beta and the optimizer's state; empty: the layer has its own.
  std::string affine_group;
};

// A step of stochastic gradient descent that Client::Backward applies on the server: torch.optim.SGD.
struct Sgd {
  double learning_rate = 0;  // Step size, >= 0.
  double momentum = 0;       // In [0, 1); 0 keeps no buffer.
  double dampening = 0;      // In [0, 1].
  bool nesterov = false;     // Needs momentum > 0 and dampening 0.
  double weight_decay = 0;   // L2 penalty added to the gradient, >= 0.
};

// The same with torch.optim.Adam, or torch.optim.AdamW.
struct Adam {
  double learning_rate = 0;             // Step size, >= 0.
  double beta1 = 0.9;                   // Decay of the first moment, in [0, 1).
  double beta2 = 0.999;                 // Decay of the second moment, in [0, 1).
  double eps = 1e-8;                    // Added to the root of the second moment, > 0.
  double weight_decay = 0;              // >= 0.
  bool decoupled_weight_decay = false;  // Decay the weights and not the gradient: AdamW.
};

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_LAYER_H_
