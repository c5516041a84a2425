#ifndef NORMD_SERVER_REGISTRY_CHUNK_NORMALIZER_H_
#define NORMD_SERVER_REGISTRY_CHUNK_NORMALIZER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"
#include "server/layer/layer_config.h"
#include "server/layer/layer_state.h"
#include "server/layer/tensor.h"

namespace normd::registry {

// Normalizes a tensor that comes in chunks, cut anywhere between two elements: the bits are those of the whole. Owns
// its parameters, so that the layer may change or go meanwhile. Not thread-safe.
class ChunkNormalizer {
 public:
  // For a tensor of this shape and type, with these statistics of the layer's length.
  ChunkNormalizer(const layer::NcsShape& shape, layer::DType dtype, const layer::LayerConfig& config,
                  absl::Span<const double> mean, absl::Span<const double> var, const layer::Affine& affine);

  // Normalizes the next elements in place. REQUIRES: whole elements, aligned to one, and no more than remaining_bytes.
  void Next(absl::Span<char> chunk, int threads);
  // The same with the elements from `position` on. Thread-safe.
  void At(int64_t position, absl::Span<char> chunk, int threads) const;

  int64_t element_bytes() const { return layer::ElementBytes(dtype_); }
  // Bytes of the tensor that have not come yet.
  int64_t remaining_bytes() const { return (shape_.size() - position_) * element_bytes(); }

 private:
  // Of `count` channels, starting with `first`.
  kernels::ChannelParams Params(int64_t first, int64_t count) const;

  layer::NcsShape shape_;
  layer::DType dtype_;
  std::vector<double> mean_;
  std::vector<double> inv_std_;
  layer::Affine affine_;
  double clip_;
  // In elements.
  int64_t position_ = 0;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_CHUNK_NORMALIZER_H_
