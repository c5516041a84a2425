// Errors of normd, PyTorch and oneDNN on inputs that are known to be hard, against 80-bit arithmetic, as a Markdown
// table. tests/benchmarks/run.sh puts it into the report.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "server/kernels/batch_norm.h"
#include "tests/benchmarks/peers.h"
#include "tests/server/kernels/adversarial.h"
#include "tests/server/kernels/truth.h"

namespace normd::benchmarks {
namespace {

using kernels::truth::AdversarialInput;
using kernels::truth::Shape;

constexpr double kEps = 1e-5;

struct Errors {
  // |variance / true variance - 1|; the variance itself where the true one is 0.
  double var = 0;
  // |y - true y| / max(1, |true y|)
  double y = 0;
};

// The larger one, and infinity for NaN.
void Worsen(double candidate, double* worst) {
  *worst = std::isnan(candidate) ? HUGE_VAL : std::max(*worst, candidate);
}

Errors ErrorsOf(const AdversarialInput& input, const std::vector<double>& var, double var_factor, const float* y) {
  Errors errors;
  const Shape& s = input.shape;
  for (int64_t c = 0; c < s.num_channels; ++c) {
    const std::vector<long double> values = kernels::truth::Channel(s, input.x.data(), c);
    const kernels::truth::Moments want = kernels::truth::MomentsOf(values);
    const auto want_var = static_cast<double>(want.var);
    const double got_var = var[c] * var_factor;
    Worsen(want_var == 0 ? std::abs(got_var) : std::abs(got_var / want_var - 1), &errors.var);
    const long double inv_std = 1 / std::sqrt(want.var + static_cast<long double>(kEps));
    for (size_t k = 0; k < values.size(); ++k) {
      const auto want_y = static_cast<double>((values[k] - want.mean) * inv_std);
      const double got = y[s.Index(static_cast<int64_t>(k) / s.inner, c, static_cast<int64_t>(k) % s.inner)];
      Worsen(std::abs(got - want_y) / std::max(1.0, std::abs(want_y)), &errors.y);
    }
  }
  return errors;
}

std::string Cell(const Errors& errors) {
  char text[64];
  std::snprintf(text, sizeof text, "%.0e / %.0e", errors.var, errors.y);
  return text;
}

void Row(const AdversarialInput& input) {
  const Shape& s = input.shape;
  const auto n = static_cast<double>(s.PerChannel());
  const auto channels = static_cast<size_t>(s.num_channels);
  std::vector<double> mean(channels), var(channels);
  std::vector<float> y(input.x.size());
  kernels::NormalizeBatch<float>(kernels::truth::ViewOf(s, input.x.data()), {.eps = kEps}, 2, absl::MakeSpan(mean),
                                 absl::MakeSpan(var), kernels::truth::MutableViewOf(s, y.data()));
  const std::string ours = Cell(ErrorsOf(input, var, 1, y.data()));

  const bool rows = s.inner > 1;
  // Only Train is called, which takes no statistics.
  std::fill(mean.begin(), mean.end(), 0);
  std::fill(var.begin(), var.end(), 0);
  PeerLayer layer = {
      rows ? "nchw" : "nc", s.outer, s.num_channels, s.inner, 1, input.x.data(), nullptr, mean, var, 1, 0, kEps};
  std::string torch_cell = "refuses";
  if (n > 1) {
    Torch torch(layer);
    torch.Statistics(&mean, &var);
    torch_cell = Cell(ErrorsOf(input, var, (n - 1) / n, torch.out()));
  }
  if (!rows) layer.layout = "nhwc";
  OneDnn onednn(layer, y.data());
  onednn.Train();
  onednn.Statistics(&mean, &var);
  std::printf("| %s | %s | %s | %s |\n", input.name.c_str(), ours.c_str(), torch_cell.c_str(),
              Cell(ErrorsOf(input, var, 1, y.data())).c_str());
}

}  // namespace
}  // namespace normd::benchmarks

int main() {
  normd::benchmarks::SetTorchThreads(2);
  std::printf("| input (float32) | normd: variance / y | PyTorch | oneDNN |\n|---|---|---|---|\n");
  for (const auto& input : normd::kernels::truth::AdversarialInputs()) normd::benchmarks::Row(input);
  return 0;
}
