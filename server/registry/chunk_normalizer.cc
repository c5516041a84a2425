#include "server/registry/chunk_normalizer.h"

#include <algorithm>
#include <cstddef>
#include <limits>

#include "server/registry/tensor_kernels.h"

namespace normd::registry {

ChunkNormalizer::ChunkNormalizer(const layer::NcsShape& shape, layer::DType dtype, const layer::LayerConfig& config,
                                 absl::Span<const double> mean, absl::Span<const double> var,
                                 const layer::Affine& affine)
    : shape_(shape),
      dtype_(dtype),
      mean_(mean.begin(), mean.end()),
      inv_std_(var.size()),
      affine_(affine),
      clip_(config.clip.value_or(std::numeric_limits<double>::infinity())) {
  kernels::InverseStd(var, config.eps, absl::MakeSpan(inv_std_));
}

kernels::ChannelParams ChunkNormalizer::Params(int64_t first, int64_t count) const {
  const auto part = [first, count](const std::vector<double>& values) -> absl::Span<const double> {
    if (values.empty()) return {};
    return absl::MakeConstSpan(values).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
  };
  return {.mean = part(mean_),
          .inv_std = part(inv_std_),
          .gamma = part(affine_.gamma),
          .beta = part(affine_.beta),
          .clip = clip_};
}

void ChunkNormalizer::Next(absl::Span<char> chunk, int threads) {
  At(position_, chunk, threads);
  position_ += static_cast<int64_t>(chunk.size()) / element_bytes();
}

void ChunkNormalizer::At(int64_t position, absl::Span<char> chunk, int threads) const {
  const int64_t inner = shape_.inner;
  const int64_t row = shape_.num_channels * inner;
  int64_t left = static_cast<int64_t>(chunk.size()) / element_bytes();
  char* data = chunk.data();
  while (left > 0) {
    // The largest piece from here on that is a tensor of its own: part of a channel, some channels, or whole rows.
    const int64_t channel = position / inner % shape_.num_channels;
    const int64_t within = position % inner;
    layer::NcsShape piece{.outer = 1, .num_channels = 1, .inner = inner};
    if (within > 0 || left < inner) {
      piece.inner = std::min(left, inner - within);
    } else if (channel > 0 || left < row) {
      piece.num_channels = std::min(left / inner, shape_.num_channels - channel);
    } else {
      piece.outer = left / row;
      piece.num_channels = shape_.num_channels;
    }
    layer::TensorView view;
    view.dtype = dtype_;
    view.data = absl::MakeConstSpan(data, static_cast<std::size_t>(piece.size() * element_bytes()));
    Normalize(KernelInput(view, piece), Params(channel, piece.num_channels), threads, data);
    data += view.data.size();
    position += piece.size();
    left -= piece.size();
  }
}

}  // namespace normd::registry
