#include "server/kernels/batch_norm.h"

#include <cassert>
#include <cstdint>

#include "absl/types/span.h"
#include "server/kernels/implementation.h"

namespace normd::kernels {
namespace {

template <typename A, typename B>
[[maybe_unused]] bool SameExtents(const NcsView<A>& a, const NcsView<B>& b) {
  return a.outer == b.outer && a.num_channels == b.num_channels && a.inner == b.inner;
}

// Empty spans become null.
const double* Raw(absl::Span<const double> values) { return values.empty() ? nullptr : values.data(); }

RawParams Raw(const ChannelParams& params) {
  return {params.mean.data(), params.inv_std.data(), Raw(params.gamma), Raw(params.beta), params.clip};
}

}  // namespace

template <typename T>
void BatchStatistics(NcsView<const T> x, int threads, absl::Span<double> batch_mean, absl::Span<double> batch_var) {
  assert(std::ssize(batch_mean) == x.num_channels && std::ssize(batch_var) == x.num_channels);
  ActiveImplementation().For<T>().batch_statistics(x, threads, batch_mean.data(), batch_var.data());
}

MomentsAccumulator::MomentsAccumulator(int64_t num_channels, int64_t inner)
    : num_channels_(num_channels), inner_(inner), shift_(static_cast<size_t>(num_channels)) {
  int64_t open = 0;
  int64_t totals = 0;
  ActiveImplementation().moments_sizes(num_channels, inner, &open, &totals);
  open_.assign(static_cast<size_t>(open), 0.0);
  totals_.assign(static_cast<size_t>(totals), 0.0);
}

template <typename T>
void MomentsAccumulator::Add(NcsView<const T> piece, int threads) {
  assert(piece.num_channels == num_channels_ && piece.inner == inner_);
  MomentsState state = {num_channels_, inner_, outer_, shift_.data(), open_.data(), totals_.data()};
  ActiveImplementation().For<T>().add_moments(piece, threads, &state);
  outer_ = state.outer;
}

void MomentsAccumulator::Statistics(absl::Span<double> batch_mean, absl::Span<double> batch_var) const {
  assert(outer_ >= 1 && std::ssize(batch_mean) == num_channels_ && std::ssize(batch_var) == num_channels_);
  const FinishedMoments moments = {num_channels_, inner_, outer_, shift_.data(), open_.data(), totals_.data()};
  ActiveImplementation().finish_moments(moments, batch_mean.data(), batch_var.data());
}

void InverseStd(absl::Span<const double> var, double eps, absl::Span<double> inv_std) {
  assert(var.size() == inv_std.size());
  ActiveImplementation().inverse_std(var.data(), std::ssize(var), eps, inv_std.data());
}

template <typename T>
void Normalize(NcsView<const T> x, const ChannelParams& params, int threads, NcsView<T> y) {
  assert(SameExtents(x, y));
  ActiveImplementation().For<T>().normalize(x, Raw(params), threads, y.data);
}

template <typename T>
void NormalizeBatch(NcsView<const T> x, const BatchOptions& options, int threads, absl::Span<double> batch_mean,
                    absl::Span<double> batch_var, NcsView<T> y) {
  assert(SameExtents(x, y));
  assert(std::ssize(batch_mean) == x.num_channels && std::ssize(batch_var) == x.num_channels);
  const BatchCall call = {Raw(options.gamma), Raw(options.beta), options.eps,
                          options.clip,       batch_mean.data(), batch_var.data()};
  ActiveImplementation().For<T>().normalize_batch(x, call, threads, y.data);
}

template <typename T>
void Denormalize(NcsView<const T> y, const ChannelParams& params, int threads, NcsView<T> x) {
  assert(SameExtents(x, y));
  ActiveImplementation().For<T>().denormalize(y, Raw(params), threads, x.data);
}

template <typename T>
void Backward(NcsView<const T> x, NcsView<const T> dy, const ChannelParams& params, GradientMode mode, int threads,
              absl::Span<double> dgamma, absl::Span<double> dbeta, NcsView<T> dx) {
  assert(SameExtents(x, dy) && (dx.data == nullptr || SameExtents(x, dx)));
  const BackwardCall call = {Raw(params), mode, dgamma.data(), dbeta.data()};
  ActiveImplementation().For<T>().backward(x, dy.data, call, threads, dx.data);
}

#define NORMD_INSTANTIATE(T)                                                                                          \
  template void BatchStatistics<T>(NcsView<const T>, int, absl::Span<double>, absl::Span<double>);                    \
  template void MomentsAccumulator::Add<T>(NcsView<const T>, int);                                                    \
  template void Normalize<T>(NcsView<const T>, const ChannelParams&, int, NcsView<T>);                                \
  template void NormalizeBatch<T>(NcsView<const T>, const BatchOptions&, int, absl::Span<double>, absl::Span<double>, \
                                  NcsView<T>);                                                                        \
  template void Denormalize<T>(NcsView<const T>, const ChannelParams&, int, NcsView<T>);                              \
  template void Backward<T>(NcsView<const T>, NcsView<const T>, const ChannelParams&, GradientMode, int,              \
                            absl::Span<double>, absl::Span<double>, NcsView<T>)
NORMD_INSTANTIATE(float);
NORMD_INSTANTIATE(double);
NORMD_INSTANTIATE(Float16);
NORMD_INSTANTIATE(BFloat16);
#undef NORMD_INSTANTIATE

}  // namespace normd::kernels
