#ifndef NORMD_MOMENTS_H_
#define NORMD_MOMENTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "normd/tensor.h"

namespace normd {
inline namespace abi_0_1 {

// What a set of values says about each channel: all that a layer's statistics need of them (Client::MergeMoments). A
// plain value. Lists have one entry for each channel; without any it is that of no values at all.
struct Moments {
  // Values per channel. Where it is 0, the rest means nothing.
  std::vector<int64_t> count = {};
  std::vector<double> mean = {};  // Per channel.
  // Sum of squared deviations from the mean.
  std::vector<double> m2 = {};
  std::vector<double> min = {};  // Smallest value per channel; may be empty: not known.
  std::vector<double> max = {};  // Largest value per channel; may be empty: not known.
  // Values that were NaN or infinite and are in none of the above; may be empty: none. The layer's non_finite_policy
  // decides what they do; clear the list to have left them out for good.
  std::vector<int64_t> non_finite_count = {};

  // Takes `other` in: the moments of both sets of values together (Chan et al.), whatever the order to float64
  // rounding. INVALID_ARGUMENT, and nothing has changed: lists that do not fit one another.
  absl::Status Merge(const Moments& other);
};

// The moments of x by the server's kernels, in float64, in the calling thread; x is read once, and need not be aligned.
// mean is the batch_mean and m2 / count the batch_var of a TrainStep with x, bit for bit, so that MergeMoments leaves
// the statistics that it leaves; only a channel with values that are not finite, or too far apart for float64, has the
// moments of its finite ones. INVALID_ARGUMENT: a shape that is not of rank 2 to 8, or data of another length than it
// asks for.
absl::StatusOr<Moments> ComputeMoments(const TensorView& x);

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_MOMENTS_H_
