#ifndef NORMD_SERVER_KERNELS_REFERENCE_H_
#define NORMD_SERVER_KERNELS_REFERENCE_H_

#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"

// The formulas of batch_norm.h as plain loops over one channel after the other, without threads, blocks or cleverness:
// what the fast versions are compared with and where a reader finds out what they compute. Same contracts; sums are
// added in another order, so results agree to rounding and not to the bit.
namespace normd::kernels::reference {

template <typename T>
void BatchStatistics(NcsView<const T> x, absl::Span<double> batch_mean, absl::Span<double> batch_var);

template <typename T>
void Normalize(NcsView<const T> x, const ChannelParams& params, NcsView<T> y);

template <typename T>
void Denormalize(NcsView<const T> y, const ChannelParams& params, NcsView<T> x);

template <typename T>
void Backward(NcsView<const T> x, NcsView<const T> dy, const ChannelParams& params, GradientMode mode,
              absl::Span<double> dgamma, absl::Span<double> dbeta, NcsView<T> dx);

}  // namespace normd::kernels::reference

#endif  // NORMD_SERVER_KERNELS_REFERENCE_H_
