#ifndef NORMD_SERVER_REGISTRY_NORMALIZER_H_
#define NORMD_SERVER_REGISTRY_NORMALIZER_H_

#include <vector>

#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"
#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"

namespace normd::registry {

// Per-channel numbers that turn x into y: given statistics and a layer's eps and clip. Borrows `mean`; the caller keeps
// it and the gamma and beta of Params alive.
class Normalizer {
 public:
  Normalizer(const layer::LayerConfig& config, absl::Span<const double> mean, absl::Span<const double> var);

  absl::Span<const double> inv_std() const { return inv_std_; }
  // Empty gamma and beta: 1 and 0.
  kernels::ChannelParams Params(absl::Span<const double> gamma, absl::Span<const double> beta) const;

 private:
  absl::Span<const double> mean_;
  std::vector<double> inv_std_;
  double clip_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_NORMALIZER_H_
