// How long the kernels alone take, in this process and warm: what is left of a call when there is no RPC. Checks the
// result, then times it for a second; prints one JSON line.
//
//   GOMP_SPINCOUNT=2000 kernel_time --operation infer|train --shape 32,64,56,56 [--seconds 1]
//
// As many threads as normd would use; normd sets GOMP_SPINCOUNT for itself.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/kernels/batch_norm.h"
#include "server/kernels/parallelism.h"
#include "tests/benchmarks/rpc/workload.h"

namespace normd::benchmarks {
namespace {

using Clock = std::chrono::steady_clock;

class Kernel {
 public:
  explicit Kernel(const Workload& workload)
      : workload_(workload),
        threads_(kernels::ThreadsFor(static_cast<int64_t>(2 * workload.bytes()), kernels::AvailableCores())),
        mean_(static_cast<std::size_t>(workload.num_channels()), kRunningMean),
        var_(mean_.size(), kRunningVar),
        inv_std_(mean_.size()),
        gamma_(mean_.size(), kGamma),
        beta_(mean_.size(), kBeta),
        y_(workload.x().size()) {}

  int threads() const { return threads_; }

  void Run() {
    const kernels::NcsView<const float> x = workload_.view();
    const kernels::NcsView<float> y = {y_.data(), x.outer, x.num_channels, x.inner};
    if (workload_.operation() == Operation::kTrain) {
      kernels::NormalizeBatch(x, {.eps = kEps, .gamma = gamma_, .beta = beta_}, threads_, absl::MakeSpan(mean_),
                              absl::MakeSpan(var_), y);
    } else {
      kernels::InverseStd(var_, kEps, absl::MakeSpan(inv_std_));
      kernels::Normalize(x, {.mean = mean_, .inv_std = inv_std_, .gamma = gamma_, .beta = beta_}, threads_, y);
    }
  }

  absl::Status Check() const {
    return workload_.Check({reinterpret_cast<const char*>(y_.data()), y_.size() * sizeof(float)}, kNormdTolerance);
  }

 private:
  const Workload& workload_;
  const int threads_;
  std::vector<double> mean_, var_, inv_std_, gamma_, beta_;
  std::vector<float> y_;
};

std::vector<double> TimesUs(Kernel* kernel, double seconds) {
  std::vector<double> us;
  const Clock::time_point begin = Clock::now();
  for (Clock::time_point start = begin; start - begin < std::chrono::duration<double>(seconds);) {
    kernel->Run();
    const Clock::time_point end = Clock::now();
    us.push_back(std::chrono::duration<double, std::micro>(end - start).count());
    start = end;
  }
  std::sort(us.begin(), us.end());
  return us;
}

}  // namespace
}  // namespace normd::benchmarks

int main(int argc, char** argv) {
  namespace benchmarks = normd::benchmarks;
  CLI::App app("Times the kernels alone");
  std::string operation;
  std::vector<int64_t> shape;
  double seconds = 1;
  app.add_option("--operation", operation, "infer or train")->required()->check(CLI::IsMember({"infer", "train"}));
  app.add_option("--shape", shape, "extents, channels first")->required()->delimiter(',')->expected(2, 8);
  app.add_option("--seconds", seconds, "how long to measure");
  CLI11_PARSE(app, argc, argv);

  const benchmarks::Workload workload(
      operation == "train" ? benchmarks::Operation::kTrain : benchmarks::Operation::kInfer, shape);
  benchmarks::Kernel kernel(workload);
  kernel.Run();
  if (const absl::Status status = kernel.Check(); !status.ok()) {
    std::fprintf(stderr, "kernel_time: %s: %s\n", operation.c_str(), status.ToString().c_str());
    return 1;
  }
  benchmarks::TimesUs(&kernel, seconds / 4);
  const std::vector<double> us = benchmarks::TimesUs(&kernel, seconds);
  const nlohmann::json line = {{"event", "result"},           {"operation", operation}, {"shape", shape},
                               {"threads", kernel.threads()}, {"requests", us.size()},  {"min_us", us.front()},
                               {"p50_us", us[us.size() / 2]}};
  std::printf("%s\n", line.dump().c_str());
  return 0;
}
