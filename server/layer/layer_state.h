#ifndef NORMD_SERVER_LAYER_LAYER_STATE_H_
#define NORMD_SERVER_LAYER_LAYER_STATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "server/layer/contributors.h"
#include "server/layer/layer_config.h"

namespace normd::layer {

// Running statistics, length num_channels each (length 0 without track_running_stats). Float64. A plain value.
struct Statistics {
  std::vector<double> running_mean;
  // In the layer's running_var_estimator; >= 0.
  std::vector<double> running_var;
  // Values folded into each channel.
  std::vector<double> sample_count;
  // Training steps folded in.
  int64_t num_batches_tracked = 0;
  // Of those, how many each channel sat out (NonFinitePolicy::kSkipChannel). Empty while there are none.
  std::vector<int64_t> skipped_batches;

  // mean 0, variance 1, counts 0.
  static Statistics Initial(const LayerConfig& config);
  friend bool operator==(const Statistics&, const Statistics&) = default;
};

// Learned scale and shift, length num_channels each (length 0 without affine). A plain value.
struct Affine {
  std::vector<double> gamma;
  std::vector<double> beta;

  // gamma 1, beta 0.
  static Affine Initial(const LayerConfig& config);
  friend bool operator==(const Affine&, const Affine&) = default;
};

// What an optimizer remembers between its steps. A plain value.
struct OptimizerState {
  enum class Kind { kNone, kSgd, kAdam };
  Kind kind = Kind::kNone;
  // Steps taken.
  int64_t num_steps = 0;
  // SGD: momentum buffers (empty without momentum). Adam: first moments. Length num_channels each.
  std::vector<double> gamma_momentum;
  std::vector<double> beta_momentum;
  // Adam: second moments.
  std::vector<double> gamma_second_moment;
  std::vector<double> beta_second_moment;

  friend bool operator==(const OptimizerState&, const OptimizerState&) = default;
};

// One version of a layer: immutable once published and shared by readers. Parts that a change leaves alone are shared
// with the version before. No pointer is null.
struct LayerSnapshot {
  std::string name;
  std::string uid;
  std::string preset;
  std::shared_ptr<const LayerConfig> config;
  std::shared_ptr<const Statistics> statistics;
  std::shared_ptr<const Affine> affine;
  std::shared_ptr<const OptimizerState> optimizer;
  // Whose moments were merged in. Not part of the content hash.
  std::shared_ptr<const Contributors> contributors;
  // Layers with the same one share affine and optimizer; empty: they are the layer's own.
  std::string affine_group;
  // Starts at 1; one more with every change.
  int64_t version = 1;
  // Starts at 1; one more with every change of config. With uid it makes the etag.
  int64_t config_version = 1;
  // See content_hash.h.
  std::string content_hash;
  absl::Time create_time;
  absl::Time update_time;

  // Opaque; changes with the settings only.
  std::string Etag() const;
};

// What SetState and CreateLayer may overwrite; an empty list leaves that part as it is.
struct StateUpdate {
  std::vector<double> running_mean;
  std::vector<double> running_var;
  std::vector<double> sample_count;
  int64_t num_batches_tracked = 0;
  std::vector<int64_t> skipped_batches;
  std::vector<double> gamma;
  std::vector<double> beta;
  bool reset_optimizer = false;

  bool SetsStatistics() const { return !running_mean.empty() || !running_var.empty(); }
  bool SetsAffine() const { return !gamma.empty() || !beta.empty(); }
};

// INVALID_ARGUMENT, naming the field, what was got and what is wanted, if `update` does not fit a layer of this config.
absl::Status ValidateStateUpdate(const LayerConfig& config, const StateUpdate& update);

}  // namespace normd::layer

#endif  // NORMD_SERVER_LAYER_LAYER_STATE_H_
