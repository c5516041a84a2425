#ifndef NORMD_SERVER_KERNELS_BATCH_NORM_H_
#define NORMD_SERVER_KERNELS_BATCH_NORM_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/types/span.h"
#include "server/kernels/half.h"
#include "server/kernels/view.h"

// Batch normalization over an (outer, C, inner) view, as published by Ioffe & Szegedy 2015 (algorithms 1 and 2 and the
// gradients of section 3). docs/batch_norm.md holds the formulas, order.h the order of the sums.
//
// Everywhere: T is float, double, Float16 or BFloat16; `data` is aligned to T; statistics and parameters are float64 of
// length C; sums and values are computed in float64, and an output is rounded once (16-bit types: to float32 and then
// to the type). Functions return nothing and check nothing in release builds: the caller has validated extents (all >=
// 1, equal between the views of a call). Thread-safe. At most `threads` (>= 1) OpenMP threads. The same bits whatever
// `threads`, the instruction set and the alignment are; only the sign and payload of a NaN may differ. NaN and infinity
// follow IEEE arithmetic and stay in their channel.
//
// Large outputs are written past the caches, unless they are the input: from 1.25 MiB for each thread; on AMD if inputs
// and output have more than 13 MiB for each thread.
namespace normd::kernels {

// batch_mean[c] = sum(x) / n and batch_var[c] = sum((x - batch_mean)^2) / n (population), n = outer * inner, in one
// pass: sums of d = x - x0 and d^2 with x0 the channel's first value. A constant channel gives exactly that value and
// 0. Error of the mean below 1e-15 * (|mean| + (1 + k) * std) and of the variance below 1e-14 * (1 + k^2) * var, where
// the first value is k standard deviations away from the mean: about 1, and never more than sqrt(n).
template <typename T>
void BatchStatistics(NcsView<const T> x, int threads, absl::Span<double> batch_mean, absl::Span<double> batch_var);

// The same statistics of a tensor that arrives in pieces along `outer`, bit for bit, however it is cut. Not
// thread-safe.
class MomentsAccumulator {
 public:
  MomentsAccumulator(int64_t num_channels, int64_t inner);

  // Takes in the next rows of `outer`. REQUIRES: the piece has this object's num_channels and inner. All pieces have
  // one type.
  template <typename T>
  void Add(NcsView<const T> piece, int threads);

  int64_t values_per_channel() const { return outer_ * inner_; }

  // Of all that was added. REQUIRES: values_per_channel() >= 1. More may be added afterwards.
  void Statistics(absl::Span<double> batch_mean, absl::Span<double> batch_var) const;

 private:
  int64_t num_channels_;
  int64_t inner_;
  int64_t outer_ = 0;
  // As MomentsState has them.
  std::vector<double> shift_;
  std::vector<double> open_;
  std::vector<double> totals_;
};

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

// What NormalizeBatch normalizes with besides the statistics of x.
struct BatchOptions {
  double eps = 1e-5;
  // Empty: 1 and 0.
  absl::Span<const double> gamma = {};
  absl::Span<const double> beta = {};
  double clip = std::numeric_limits<double>::infinity();
};

// BatchStatistics, InverseStd and Normalize in one: the same bits, but x is read from memory once where channels are
// contiguous in rows of 16 and more. y may be x; any other overlap is not allowed.
template <typename T>
void NormalizeBatch(NcsView<const T> x, const BatchOptions& options, int threads, absl::Span<double> batch_mean,
                    absl::Span<double> batch_var, NcsView<T> y);

// The inverse: x = (y - beta) / (gamma * inv_std) + mean; clip is not looked at. REQUIRES gamma * inv_std != 0. x may
// be y.
template <typename T>
void Denormalize(NcsView<const T> y, const ChannelParams& params, int threads, NcsView<T> x);

// With g = dy, and g = 0 where clip holds x_hat back (|x_hat| > clip) in the terms of dx:
//   dbeta = sum(dy); dgamma = sum(dy * clipped x_hat);
//   kBatch:    dx = gamma * inv_std * (g - sum(g)/n - x_hat * sum(g * x_hat)/n)   (mean and inv_std depend on x)
//   kConstant: dx = gamma * inv_std * g                                           (running statistics)
// `params.beta` is not looked at. dx.data may be null: only dgamma and dbeta. dx may be dy or x; any other overlap is
// not allowed. A channel whose mean is NaN gets dx = 0, dgamma = dbeta = 0.
template <typename T>
void Backward(NcsView<const T> x, NcsView<const T> dy, const ChannelParams& params, GradientMode mode, int threads,
              absl::Span<double> dgamma, absl::Span<double> dbeta, NcsView<T> dx);

}  // namespace normd::kernels

#endif  // NORMD_SERVER_KERNELS_BATCH_NORM_H_
