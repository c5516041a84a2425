#ifndef NORMD_CLIENT_CPP_SRC_LAYER_VERSION_H_
#define NORMD_CLIENT_CPP_SRC_LAYER_VERSION_H_

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "client/cpp/src/extents.h"
#include "normd/layer.h"
#include "normd/running_normalizer.h"
#include "server/kernels/batch_norm.h"

namespace normd::internal {

// One version of a layer, to normalize with in this process by the server's kernels: the same bits as Infer and
// Denormalize of that version. Immutable, so thread-safe.
class LayerVersion {
 public:
  // FAILED_PRECONDITION: another number of channels, or a layer without running statistics. REQUIRES layer.state.
  static absl::StatusOr<std::shared_ptr<const LayerVersion>> Of(const Layer& layer, int64_t num_channels);

  const RunningStatistics& statistics() const { return statistics_; }

  // `out` is as long as x.data, and the same memory or apart. Neither needs to be aligned. REQUIRES: CheckedExtents of
  // x, with this layer's num_channels.
  void Normalize(const TensorView& x, const Extents& extents, absl::Span<char> out) const;
  // FAILED_PRECONDITION, without the layer's name: a channel that has no inverse.
  absl::Status Denormalize(const TensorView& y, const Extents& extents, absl::Span<char> out) const;

 private:
  explicit LayerVersion(const Layer& layer);
  kernels::ChannelParams Params() const;

  const RunningStatistics statistics_;
  std::vector<double> inv_std_;
};

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_LAYER_VERSION_H_
