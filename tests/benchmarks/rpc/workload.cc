#include "tests/benchmarks/rpc/workload.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"
#include "server/kernels/reference.h"

namespace normd::benchmarks {

Workload::Workload(Operation operation, std::vector<int64_t> shape) : operation_(operation), shape_(std::move(shape)) {
  x_.resize(std::accumulate(shape_.begin(), shape_.end(), std::size_t{1}, std::multiplies<>()));
  std::mt19937 generator(1);
  std::normal_distribution<float> normal(1, 2);
  // A prime number of values repeated: drawing all takes longer than the measurements.
  std::vector<float> noise(std::min<std::size_t>(x_.size(), 65521));
  for (float& value : noise) value = normal(generator);
  for (std::size_t i = 0; i < x_.size(); ++i) x_[i] = noise[i % noise.size()];
}

kernels::NcsView<const float> Workload::view() const {
  const int64_t inner = std::accumulate(shape_.begin() + 2, shape_.end(), int64_t{1}, std::multiplies<>());
  return {x_.data(), shape_[0], shape_[1], inner};
}

std::string Workload::layer() const {
  return absl::StrCat(operation_ == Operation::kTrain ? "train-" : "infer-", num_channels());
}

absl::Status Workload::Check(absl::string_view y, double tolerance) const {
  if (y.size() != bytes()) {
    return absl::InternalError(absl::StrCat("the answer has ", y.size(), " bytes, want ", bytes()));
  }
  const auto channels = static_cast<std::size_t>(num_channels());
  std::vector<double> mean(channels, kRunningMean), var(channels, kRunningVar), inv_std(channels);
  const std::vector<double> gamma(channels, kGamma), beta(channels, kBeta);
  if (operation_ == Operation::kTrain) {
    kernels::reference::BatchStatistics(view(), absl::MakeSpan(mean), absl::MakeSpan(var));
  }
  for (std::size_t i = 0; i < channels; ++i) inv_std[i] = 1 / std::sqrt(var[i] + kEps);
  std::vector<float> want(x_.size());
  const kernels::NcsView<const float> x = view();
  kernels::reference::Normalize(x, {.mean = mean, .inv_std = inv_std, .gamma = gamma, .beta = beta},
                                kernels::NcsView<float>{want.data(), x.outer, x.num_channels, x.inner});

  double worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    float got;
    std::memcpy(&got, y.data() + i * sizeof got, sizeof got);
    const double error = std::abs(static_cast<double>(got) - want[i]) / std::max(1.0F, std::abs(want[i]));
    worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
  }
  if (worst > tolerance) {
    return absl::InternalError(
        absl::StrCat("wrong answer: the largest error is ", worst, ", want at most ", tolerance));
  }
  return absl::OkStatus();
}

}  // namespace normd::benchmarks
