#ifndef NORMD_TESTS_BENCHMARKS_RPC_WORKLOAD_H_
#define NORMD_TESTS_BENCHMARKS_RPC_WORKLOAD_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/kernels/view.h"

namespace normd::benchmarks {

enum class Operation { kInfer, kTrain };

// Every channel of every layer that is measured starts like this; torch_server.py has the same numbers. Not the neutral
// ones, so that an answer without normalization is noticed.
inline constexpr double kEps = 1e-5;
inline constexpr double kRunningMean = 0.5;
inline constexpr double kRunningVar = 2.0;
inline constexpr double kGamma = 1.25;
inline constexpr double kBeta = -0.5;

// A float32 tensor, channels first, and what a right answer to it is. Immutable.
class Workload {
 public:
  // REQUIRES: rank >= 2, extents >= 1.
  Workload(Operation operation, std::vector<int64_t> shape);

  Operation operation() const { return operation_; }
  const std::vector<int64_t>& shape() const { return shape_; }
  int64_t num_channels() const { return shape_[1]; }
  const std::vector<float>& x() const { return x_; }
  std::size_t bytes() const { return x_.size() * sizeof(float); }
  kernels::NcsView<const float> view() const;
  // "infer-64": training moves the running statistics, so each operation has a layer of its own.
  std::string layer() const;

  // Whether `y`, float32 values, is this layer's answer: no error above tolerance * max(1, |y|). INTERNAL, with the
  // worst value, otherwise. Recomputes the answer in float64.
  absl::Status Check(absl::string_view y, double tolerance) const;

 private:
  const Operation operation_;
  const std::vector<int64_t> shape_;
  std::vector<float> x_;
};

// What normd promises (server/kernels/batch_norm.h), and what float32 sums can reach.
inline constexpr double kNormdTolerance = 4.0 / (1 << 24);
inline constexpr double kTorchTolerance = 1e-5;

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_RPC_WORKLOAD_H_
