#include "server/kernels/batch_norm.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "server/kernels/columns.h"
#include "server/kernels/elements.h"
#include "server/kernels/parallel_ranges.h"
#include "server/kernels/segments.h"

namespace normd::kernels {
namespace {

// Below this a loop over one channel's points is too short to pay for its start and tail.
constexpr int64_t kMinSegment = 16;

// Calls f(scope) so that the scopes together cover every channel once. How channels are dealt out to scopes and threads
// changes no bit of the result.
template <typename V, typename F>
void ForEachScope(const NcsView<V>& view, int threads, const F& f) {
  if (view.inner < kMinSegment) {
    f(ColumnScope(view.outer, view.num_channels, view.inner, threads));
    return;
  }
  const Segments segments(view.outer, view.num_channels, view.inner);
  if (threads > 1 && view.num_channels < 4 * static_cast<int64_t>(threads)) {
    f(BlockScope(segments, threads));
    return;
  }
  const int64_t group = segments.GroupSize(threads);
  ParallelRanges(CeilDiv(view.num_channels, group), threads, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      f(GroupScope(segments, g * group, std::min(view.num_channels, (g + 1) * group)));
    }
  });
}

// Elementwise work needs no groups.
template <typename T, typename Op>
void MapEverything(const NcsView<T>& out, const Op& op, const ParamArrays<Op::kParams>& params, int threads) {
  if (out.inner < kMinSegment) {
    ColumnScope(out.outer, out.num_channels, out.inner, threads).Map(op, params, {}, out.data);
  } else {
    Segments(out.outer, out.num_channels, out.inner).MapAll(op, params, threads, {}, out.data);
  }
}

template <typename A, typename B>
[[maybe_unused]] bool SameExtents(const NcsView<A>& a, const NcsView<B>& b) {
  return a.outer == b.outer && a.num_channels == b.num_channels && a.inner == b.inner;
}

double GammaAt(const ChannelParams& params, int64_t c) { return params.gamma.empty() ? 1.0 : params.gamma[c]; }
double BetaAt(const ChannelParams& params, int64_t c) { return params.beta.empty() ? 0.0 : params.beta[c]; }

// What Backward keeps per channel between its passes.
struct GradientScratch {
  explicit GradientScratch(int64_t num_channels)
      : clipped_g(num_channels),
        clipped_gx(num_channels),
        scale(num_channels),
        mean_g(num_channels),
        slope(num_channels),
        live(num_channels) {}

  std::vector<double> clipped_g;
  std::vector<double> clipped_gx;
  std::vector<double> scale;
  std::vector<double> mean_g;
  std::vector<double> slope;
  // char and not bool: threads write neighbours.
  std::vector<char> live;
};

}  // namespace

template <typename T>
void BatchStatistics(NcsView<const T> x, int threads, absl::Span<double> batch_mean, absl::Span<double> batch_var) {
  assert(std::ssize(batch_mean) == x.num_channels && std::ssize(batch_var) == x.num_channels);
  const auto n = static_cast<double>(x.ValuesPerChannel());
  std::vector<double> shift(x.num_channels);
  std::vector<double> center(x.num_channels);
  std::vector<double> sum(x.num_channels);
  std::vector<double> squares(x.num_channels);
  // Sums of differences from a value of the channel: of no size where the channel is constant, and small against the
  // mean where that is large.
  for (int64_t c = 0; c < x.num_channels; ++c) {
    const double first = x.data[c * x.inner];
    shift[c] = std::isfinite(first) ? first : 0.0;
  }
  ForEachScope(x, threads, [&](const auto& scope) {
    scope.Reduce(Deviation<T>{x.data}, {shift.data()}, {sum.data()});
    for (int64_t c = scope.begin(); c < scope.end(); ++c) center[c] = shift[c] + sum[c] / n;
    scope.Reduce(SquaredDeviation<T>{x.data}, {center.data()}, {squares.data(), sum.data()});
    for (int64_t c = scope.begin(); c < scope.end(); ++c) {
      // An infinite mean stays what it is; the second pass could only tell that the variance is NaN.
      batch_mean[c] = std::isfinite(center[c]) ? center[c] + sum[c] / n : center[c];
      const double m2 = squares[c] - sum[c] * sum[c] / n;
      batch_var[c] = (m2 < 0 ? 0.0 : m2) / n;
    }
  });
}

void InverseStd(absl::Span<const double> var, double eps, absl::Span<double> inv_std) {
  assert(var.size() == inv_std.size());
  for (size_t c = 0; c < var.size(); ++c) {
    const double widened = var[c] + eps;
    inv_std[c] = widened == 0 ? 0.0 : 1.0 / std::sqrt(widened);
  }
}

template <typename T>
void Normalize(NcsView<const T> x, const ChannelParams& params, int threads, NcsView<T> y) {
  assert(SameExtents(x, y));
  std::vector<double> scale(x.num_channels);
  std::vector<double> beta(x.num_channels);
  for (int64_t c = 0; c < x.num_channels; ++c) {
    scale[c] = GammaAt(params, c);
    beta[c] = BetaAt(params, c);
  }
  const double* mean = params.mean.data();
  const double* inv_std = params.inv_std.data();
  if (params.clip < std::numeric_limits<double>::infinity()) {
    MapEverything(y, ClippedNormalized<T>{x.data, params.clip}, {mean, inv_std, scale.data(), beta.data()}, threads);
    return;
  }
  for (int64_t c = 0; c < x.num_channels; ++c) scale[c] *= inv_std[c];
  MapEverything(y, Normalized<T>{x.data}, {mean, scale.data(), beta.data()}, threads);
}

template <typename T>
void Denormalize(NcsView<const T> y, const ChannelParams& params, int threads, NcsView<T> x) {
  assert(SameExtents(x, y));
  std::vector<double> width(y.num_channels);
  std::vector<double> beta(y.num_channels);
  for (int64_t c = 0; c < y.num_channels; ++c) {
    width[c] = 1.0 / (GammaAt(params, c) * params.inv_std[c]);
    beta[c] = BetaAt(params, c);
  }
  MapEverything(x, Denormalized<T>{y.data}, {beta.data(), width.data(), params.mean.data()}, threads);
}

template <typename T>
void Backward(NcsView<const T> x, NcsView<const T> dy, const ChannelParams& params, GradientMode mode, int threads,
              absl::Span<double> dgamma, absl::Span<double> dbeta, NcsView<T> dx) {
  assert(SameExtents(x, dy) && (dx.data == nullptr || SameExtents(x, dx)));
  const auto n = static_cast<double>(x.ValuesPerChannel());
  const bool clips = params.clip < std::numeric_limits<double>::infinity();
  const double* mean = params.mean.data();
  const double* inv_std = params.inv_std.data();
  GradientScratch scratch(x.num_channels);

  ForEachScope(x, threads, [&](const auto& scope) {
    if (clips) {
      scope.Reduce(ClippedGradientTerms<T>{x.data, dy.data, params.clip}, {mean, inv_std},
                   {dbeta.data(), dgamma.data(), scratch.clipped_g.data(), scratch.clipped_gx.data()});
    } else {
      scope.Reduce(GradientTerms<T>{x.data, dy.data}, {mean, inv_std}, {dbeta.data(), dgamma.data()});
    }
    bool all_live = true;
    for (int64_t c = scope.begin(); c < scope.end(); ++c) {
      if (!clips) dgamma[c] *= inv_std[c];
      const double g = clips ? scratch.clipped_g[c] : dbeta[c];
      const double gx = clips ? scratch.clipped_gx[c] : dgamma[c];
      scratch.scale[c] = GammaAt(params, c) * inv_std[c];
      scratch.mean_g[c] = g / n;
      scratch.slope[c] = inv_std[c] * (gx / n);
      scratch.live[c] = std::isnan(mean[c]) ? 0 : 1;
      if (scratch.live[c] == 0) {
        all_live = false;
        dgamma[c] = 0;
        dbeta[c] = 0;
      }
    }
    if (dx.data == nullptr) return;

    const auto live = all_live ? absl::Span<const char>() : absl::Span<const char>(scratch.live);
    const ParamArrays<3> constants = {mean, inv_std, scratch.scale.data()};
    const ParamArrays<5> batch = {mean, inv_std, scratch.scale.data(), scratch.mean_g.data(), scratch.slope.data()};
    if (mode == GradientMode::kBatch && clips) {
      scope.Map(BatchGradient<T, true>{x.data, dy.data, params.clip}, batch, live, dx.data);
    } else if (mode == GradientMode::kBatch) {
      scope.Map(BatchGradient<T, false>{x.data, dy.data, params.clip}, batch, live, dx.data);
    } else if (clips) {
      scope.Map(ConstantGradient<T, true>{x.data, dy.data, params.clip}, constants, live, dx.data);
    } else {
      scope.Map(ConstantGradient<T, false>{x.data, dy.data, params.clip}, constants, live, dx.data);
    }
  });
}

#define NORMD_INSTANTIATE(T)                                                                             \
  template void BatchStatistics<T>(NcsView<const T>, int, absl::Span<double>, absl::Span<double>);       \
  template void Normalize<T>(NcsView<const T>, const ChannelParams&, int, NcsView<T>);                   \
  template void Denormalize<T>(NcsView<const T>, const ChannelParams&, int, NcsView<T>);                 \
  template void Backward<T>(NcsView<const T>, NcsView<const T>, const ChannelParams&, GradientMode, int, \
                            absl::Span<double>, absl::Span<double>, NcsView<T>)
NORMD_INSTANTIATE(float);
NORMD_INSTANTIATE(double);
#undef NORMD_INSTANTIATE

}  // namespace normd::kernels
