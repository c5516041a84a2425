#ifndef NORMD_SERVER_KERNELS_BATCH_NORM_H_
#define NORMD_SERVER_KERNELS_BATCH_NORM_H_

#include <cstdint>
#include <limits>

#include "absl/types/span.h"

// Batch normalization over an (outer, C, inner) view, as published by Ioffe & Szegedy 2015 (algorithms 1 and 2 and the
// gradients of section 3). docs/batch_norm.md holds the formulas and the order of the reductions.
//
// Everywhere: T is float or double; `data` is aligned to T; statistics and parameters are float64 of length C; sums run
// in float64. Functions return nothing and check nothing in release builds: the caller has validated extents (all >= 1,
// equal between the views of a call). Thread-safe. At most `threads` (>= 1) OpenMP threads; the same bits whatever
// `threads` is. NaN and infinity follow IEEE arithmetic and stay in their channel.
namespace normd::kernels {

// Element (o, c, i) is data[(o * num_channels + c) * inner + i].
template <typename T>
struct NcsView {
  T* data = nullptr;
  int64_t outer = 0;
  int64_t num_channels = 0;
  int64_t inner = 0;

  int64_t ValuesPerChannel() const { return outer * inner; }
};

// batch_mean[c] = sum(x) / n and batch_var[c] = sum((x - batch_mean)^2) / n (population), n = outer * inner, in two
// passes with the second one corrected for the rounding of the mean. A constant channel gives exactly that value and 0.
// Relative error below 1e-12 for |mean| / std up to 1e6.
template <typename T>
void BatchStatistics(NcsView<const T> x, int threads, absl::Span<double> batch_mean, absl::Span<double> batch_var);

// How x becomes y, per channel: x_hat = (x - mean) * inv_std, bounded to [-clip, clip]; y = gamma * x_hat + beta.
struct ChannelParams {
  absl::Span<const double> mean;
  absl::Span<const double> inv_std;
  // Empty gamma and beta: 1 and 0.
  absl::Span<const double> gamma = {};
  absl::Span<const double> beta = {};
  double clip = std::numeric_limits<double>::infinity();
};

// inv_std[c] = 1 / sqrt(var[c] + eps); 0 where var + eps is 0.
void InverseStd(absl::Span<const double> var, double eps, absl::Span<double> inv_std);

// y as ChannelParams says, computed in float64 and rounded once: |error| <= 4 * 2^-24 * max(1, |y|) for float, from the
// given parameters. y may be x; any other overlap is not allowed. NaN stays NaN also with clip.
template <typename T>
void Normalize(NcsView<const T> x, const ChannelParams& params, int threads, NcsView<T> y);

// The inverse: x = (y - beta) / (gamma * inv_std) + mean; clip is not looked at. REQUIRES gamma * inv_std != 0. x may
// be y.
template <typename T>
void Denormalize(NcsView<const T> y, const ChannelParams& params, int threads, NcsView<T> x);

// With g = dy, and g = 0 where clip holds x_hat back (|x_hat| > clip) in the terms of dx:
//   dbeta = sum(dy); dgamma = sum(dy * clipped x_hat);
//   kBatch:    dx = gamma * inv_std * (g - sum(g)/n - x_hat * sum(g * x_hat)/n)   (mean and inv_std depend on x)
//   kConstant: dx = gamma * inv_std * g                                       (running statistics)
enum class GradientMode { kBatch, kConstant };

// `params.beta` is not looked at. dx.data may be null: only dgamma and dbeta. dx may be dy or x; any other overlap is
// not allowed. A channel whose mean is NaN gets dx = 0, dgamma = dbeta = 0.
template <typename T>
void Backward(NcsView<const T> x, NcsView<const T> dy, const ChannelParams& params, GradientMode mode, int threads,
              absl::Span<double> dgamma, absl::Span<double> dbeta, NcsView<T> dx);

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_BATCH_NORM_H_
