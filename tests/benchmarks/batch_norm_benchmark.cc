// How fast the kernels are against a copy of the same tensor in the same run. Every case is checked against the scalar
// reference before it is timed.
//
//   build/bench/tests/benchmarks/batch_norm_benchmark --benchmark_repetitions=7
//   --benchmark_enable_random_interleaving=true
//
// bytes/s counts what must be read and written once: 2 tensors for copy, train and infer, 3 for triad and backward. A
// copy reaches the memory's limit, so compare with it; absolute numbers drift with the host. OMP_PROC_BIND=true and
// OMP_WAIT_POLICY=active narrow the spread.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "server/kernels/batch_norm.h"
#include "server/kernels/reference.h"

namespace normd::kernels {
namespace {

struct Shape {
  const char* name;
  int64_t outer;
  int64_t num_channels;
  int64_t inner;

  int64_t Elements() const { return outer * num_channels * inner; }
};

// Layers of ResNet-50 at batch 32 in both layouts, and dense layers.
constexpr Shape kShapes[] = {
    {"32x64x112x112_nchw", 32, 64, 12544},
    {"32x64x112x112_nhwc", 401408, 64, 1},
    {"32x256x56x56_nchw", 32, 256, 3136},
    {"32x256x56x56_nhwc", 100352, 256, 1},
    {"32x1024x14x14_nchw", 32, 1024, 196},
    {"32x1024x14x14_nhwc", 6272, 1024, 1},
    {"32x2048x7x7_nchw", 32, 2048, 49},
    {"32x2048x7x7_nhwc", 1568, 2048, 1},
    {"8x64x56x56_nchw", 8, 64, 3136},
    {"8x64x56x56_nhwc", 25088, 64, 1},
    {"65536x32_nc", 65536, 32, 1},
    {"4096x256_nc", 4096, 256, 1},
    {"256x64_nc", 256, 64, 1},
    {"4096x3_nc", 4096, 3, 1},
};

// The tensors of the largest shape, shared by all cases so that their pages are touched once.
struct Tensors {
  std::vector<float> x;
  std::vector<float> dy;
  std::vector<float> out;

  Tensors() {
    int64_t most = 0;
    for (const Shape& s : kShapes) most = std::max(most, s.Elements());
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(3, 2);
    // A prime number of values repeated: filling 26 million from the generator takes longer than the measurements.
    std::vector<float> noise(65521);
    for (float& v : noise) v = normal(generator);
    x.resize(most);
    dy.resize(most);
    out.resize(most);
    for (int64_t i = 0; i < most; ++i) {
      x[i] = noise[i % 65521];
      dy[i] = noise[(i + 7919) % 65521];
    }
  }
};

Tensors& Shared() {
  static auto* tensors = new Tensors;
  return *tensors;
}

struct Layer {
  NcsView<const float> x;
  NcsView<const float> dy;
  NcsView<float> out;
  std::vector<double> mean;
  std::vector<double> var;
  std::vector<double> inv_std;
  std::vector<double> gamma;
  std::vector<double> beta;
  std::vector<double> dgamma;
  std::vector<double> dbeta;

  explicit Layer(const Shape& s)
      : x{Shared().x.data(), s.outer, s.num_channels, s.inner},
        dy{Shared().dy.data(), s.outer, s.num_channels, s.inner},
        out{Shared().out.data(), s.outer, s.num_channels, s.inner},
        mean(s.num_channels),
        var(s.num_channels),
        inv_std(s.num_channels),
        gamma(s.num_channels, 1.25),
        beta(s.num_channels, -0.5),
        dgamma(s.num_channels),
        dbeta(s.num_channels) {}

  ChannelParams Params() const { return {.mean = mean, .inv_std = inv_std, .gamma = gamma, .beta = beta}; }

  void Train(int threads) {
    BatchStatistics(x, threads, absl::MakeSpan(mean), absl::MakeSpan(var));
    InverseStd(var, 1e-5, absl::MakeSpan(inv_std));
    Infer(threads);
  }
  void Infer(int threads) { Normalize(x, Params(), threads, out); }
  void Gradient(int threads) {
    Backward(x, dy, Params(), GradientMode::kBatch, threads, absl::MakeSpan(dgamma), absl::MakeSpan(dbeta), out);
  }
};

void RequireClose(const char* what, const Shape& s, absl::Span<const float> got, absl::Span<const float> want) {
  for (size_t i = 0; i < got.size(); ++i) {
    if (!(std::abs(got[i] - want[i]) <= 1e-6F * std::max(1.0F, std::abs(want[i])))) {
      std::fprintf(stderr, "%s %s: element %zu is %g, the reference says %g\n", s.name, what, i, got[i], want[i]);
      std::abort();
    }
  }
}

void CheckAgainstReference(const Shape& s) {
  Layer layer(s);
  Layer plain(s);
  std::vector<float> want(static_cast<size_t>(s.Elements()));
  plain.out.data = want.data();
  const absl::Span<const float> got(layer.out.data, want.size());
  layer.Train(2);
  reference::BatchStatistics(plain.x, absl::MakeSpan(plain.mean), absl::MakeSpan(plain.var));
  InverseStd(plain.var, 1e-5, absl::MakeSpan(plain.inv_std));
  reference::Normalize(plain.x, plain.Params(), plain.out);
  RequireClose("y", s, got, want);
  layer.Gradient(2);
  reference::Backward(plain.x, plain.dy, plain.Params(), GradientMode::kBatch, absl::MakeSpan(plain.dgamma),
                      absl::MakeSpan(plain.dbeta), plain.out);
  RequireClose("dx", s, got, want);
}

void CopyPass(Layer* layer, [[maybe_unused]] int threads) {
  const int64_t count = layer->x.outer * layer->x.num_channels * layer->x.inner;
  const float* from = layer->x.data;
  float* to = layer->out.data;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
  for (int64_t i = 0; i < count; ++i) to[i] = from[i] + 1.0F;
}

void TriadPass(Layer* layer, [[maybe_unused]] int threads) {
  const int64_t count = layer->x.outer * layer->x.num_channels * layer->x.inner;
  const float* a = layer->x.data;
  const float* b = layer->dy.data;
  float* to = layer->out.data;
#ifdef _OPENMP
#pragma omp parallel for schedule(static) num_threads(threads)
#endif
  for (int64_t i = 0; i < count; ++i) to[i] = a[i] + b[i];
}

template <typename F>
void Register(const Shape& s, const std::string& what, int threads, int64_t tensors, F pass) {
  const std::string name = std::string(s.name) + "/" + what + "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(name.c_str(), [&s, threads, tensors, pass](benchmark::State& state) {
    Layer layer(s);
    layer.Train(threads);
    for (auto _ : state) {
      pass(&layer, threads);
      benchmark::ClobberMemory();
    }
    state.SetBytesProcessed(state.iterations() * tensors * s.Elements() * static_cast<int64_t>(sizeof(float)));
  })->UseRealTime();
}

}  // namespace
}  // namespace normd::kernels

int main(int argc, char** argv) {
  namespace kernels = normd::kernels;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  for (const kernels::Shape& s : kernels::kShapes) {
    kernels::CheckAgainstReference(s);
    for (int threads : {1, 2}) {
      kernels::Register(s, "copy", threads, 2, kernels::CopyPass);
      kernels::Register(s, "train", threads, 2, [](kernels::Layer* l, int t) { l->Train(t); });
      kernels::Register(s, "infer", threads, 2, [](kernels::Layer* l, int t) { l->Infer(t); });
      kernels::Register(s, "triad", threads, 3, kernels::TriadPass);
      kernels::Register(s, "backward", threads, 3, [](kernels::Layer* l, int t) { l->Gradient(t); });
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
