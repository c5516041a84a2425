#include "client/cpp/src/layer_version.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace normd::internal {
namespace {

RunningStatistics StatisticsOf(const Layer& layer) {
  const LayerState& state = *layer.state;
  RunningStatistics statistics;
  statistics.version = layer.version;
  statistics.mean = state.running_mean;
  statistics.var = state.running_var;
  for (const double count : state.sample_count) statistics.count = std::max(statistics.count, count);
  statistics.eps = layer.config.eps.value_or(0);
  statistics.clip = layer.config.clip;
  statistics.gamma = state.gamma;
  statistics.beta = state.beta;
  return statistics;
}

// f(from, to, element) with both aligned to the element, which the kernels ask for.
template <typename F>
void WithAligned(const TensorView& in, absl::Span<char> out, const F& f) {
  WithElement(in.dtype, [&](auto element) {
    using T = decltype(element);
    const char* from = in.data.data();
    char* to = out.data();
    const auto at = [](const char* data) { return reinterpret_cast<std::uintptr_t>(data) % alignof(T); };
    if (at(from) == 0 && at(to) == 0) return f(reinterpret_cast<const T*>(from), reinterpret_cast<T*>(to));
    std::vector<T> copy(in.data.size() / sizeof(T));
    if (copy.empty()) return;
    std::memcpy(copy.data(), from, in.data.size());
    f(static_cast<const T*>(copy.data()), copy.data());
    std::memcpy(to, copy.data(), in.data.size());
  });
}

template <typename T>
kernels::NcsView<T> ViewOf(const Extents& extents, T* data) {
  return {data, extents.outer, extents.num_channels, extents.inner};
}

}  // namespace

absl::StatusOr<std::shared_ptr<const LayerVersion>> LayerVersion::Of(const Layer& layer, int64_t num_channels) {
  if (layer.config.num_channels != num_channels) {
    return absl::FailedPreconditionError(
        absl::StrCat("layer '", layer.name, "' has ", layer.config.num_channels, " channels, want ", num_channels));
  }
  if (!layer.config.track_running_stats.value_or(true)) {
    return absl::FailedPreconditionError(
        absl::StrCat("layer '", layer.name, "' keeps no running statistics (track_running_stats is false)"));
  }
  return std::shared_ptr<const LayerVersion>(new LayerVersion(layer));
}

LayerVersion::LayerVersion(const Layer& layer) : statistics_(StatisticsOf(layer)), inv_std_(statistics_.var.size()) {
  kernels::InverseStd(statistics_.var, statistics_.eps, absl::MakeSpan(inv_std_));
}

kernels::ChannelParams LayerVersion::Params() const {
  return {.mean = statistics_.mean,
          .inv_std = inv_std_,
          .gamma = statistics_.gamma,
          .beta = statistics_.beta,
          .clip = statistics_.clip.value_or(std::numeric_limits<double>::infinity())};
}

void LayerVersion::Normalize(const TensorView& x, const Extents& extents, absl::Span<char> out) const {
  if (x.data.empty()) return;
  WithAligned(x, out, [&]<typename T>(const T* from, T* to) {
    kernels::Normalize<T>(ViewOf(extents, from), Params(), 1, ViewOf(extents, to));
  });
}

absl::Status LayerVersion::Denormalize(const TensorView& y, const Extents& extents, absl::Span<char> out) const {
  for (std::size_t c = 0; c < inv_std_.size(); ++c) {
    const double gamma = statistics_.gamma.empty() ? 1 : statistics_.gamma[c];
    if (gamma * inv_std_[c] != 0) continue;
    return absl::FailedPreconditionError(absl::StrCat("gamma[", c, "] * inv_std[", c, "] is 0 (gamma ", gamma,
                                                      ", running_var ", statistics_.var[c], "), which has no inverse"));
  }
  if (y.data.empty()) return absl::OkStatus();
  WithAligned(y, out, [&]<typename T>(const T* from, T* to) {
    kernels::Denormalize<T>(ViewOf(extents, from), Params(), 1, ViewOf(extents, to));
  });
  return absl::OkStatus();
}

}  // namespace normd::internal
