#include "server/registry/normalizer.h"

#include <limits>

namespace normd::registry {

Normalizer::Normalizer(const layer::LayerConfig& config, absl::Span<const double> mean, absl::Span<const double> var)
    : mean_(mean), inv_std_(var.size()), clip_(config.clip.value_or(std::numeric_limits<double>::infinity())) {
  kernels::InverseStd(var, config.eps, absl::MakeSpan(inv_std_));
}

kernels::ChannelParams Normalizer::Params(absl::Span<const double> gamma, absl::Span<const double> beta) const {
  return {.mean = mean_, .inv_std = inv_std_, .gamma = gamma, .beta = beta, .clip = clip_};
}

}  // namespace normd::registry
