// Element types and instruction sets: bytes per second of train, infer and backward for float32, float64, float16 and
// bfloat16, beside a copy of as many bytes. Every case is checked against the scalar reference before it is timed.
//
//   build/bench/tests/benchmarks/dtype_benchmark --benchmark_repetitions=5 --benchmark_enable_random_interleaving=true
//
// bytes/s counts what must be read and written once: 2 tensors for copy, train and infer, 3 for backward. Absolute
// numbers drift with the host: compare with the copy. OMP_PROC_BIND=true and OMP_WAIT_POLICY=active narrow the spread.
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "server/kernels/batch_norm.h"
#include "server/kernels/implementation.h"
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

constexpr Shape kShapes[] = {{"32x64x56x56_nchw", 32, 64, 3136},
                             {"32x64x56x56_nhwc", 100352, 64, 1},
                             {"32x2048x7x7_nchw", 32, 2048, 49},
                             {"4096x256_nc", 4096, 256, 1}};

template <typename T>
struct Layer {
  explicit Layer(const Shape& s)
      : shape(s),
        x(s.Elements()),
        dy(s.Elements()),
        out(s.Elements()),
        mean(s.num_channels),
        var(s.num_channels),
        inv_std(s.num_channels),
        gamma(s.num_channels, 1.25),
        beta(s.num_channels, -0.5),
        dgamma(s.num_channels),
        dbeta(s.num_channels) {
    std::mt19937 generator(1);
    std::normal_distribution<double> normal(3, 2);
    for (T& v : x) FromDouble(normal(generator), &v);
    for (T& v : dy) FromDouble(normal(generator), &v);
    Train(1);
    InverseStd(var, 1e-5, absl::MakeSpan(inv_std));
  }

  NcsView<const T> View(const std::vector<T>& data) const {
    return {data.data(), shape.outer, shape.num_channels, shape.inner};
  }
  NcsView<T> Out() { return {out.data(), shape.outer, shape.num_channels, shape.inner}; }
  ChannelParams Params() const { return {.mean = mean, .inv_std = inv_std, .gamma = gamma, .beta = beta}; }

  void Copy(int /*threads*/) { std::memcpy(out.data(), x.data(), x.size() * sizeof(T)); }
  void Train(int threads) {
    NormalizeBatch(View(x), {.eps = 1e-5, .gamma = gamma, .beta = beta}, threads, absl::MakeSpan(mean),
                   absl::MakeSpan(var), Out());
  }
  void Infer(int threads) { Normalize(View(x), Params(), threads, Out()); }
  void Gradient(int threads) {
    Backward(View(x), View(dy), Params(), GradientMode::kBatch, threads, absl::MakeSpan(dgamma), absl::MakeSpan(dbeta),
             Out());
  }

  // One rounding of the type, relative to max(1, |want|).
  void RequireClose(const char* what, const std::vector<T>& want) const {
    const double unit = std::is_same_v<T, BFloat16> ? 0x1p-7 : std::is_same_v<T, Float16> ? 0x1p-10 : 0x1p-22;
    for (size_t i = 0; i < out.size(); ++i) {
      const double w = ToDouble(want[i]);
      if (std::abs(ToDouble(out[i]) - w) <= unit * std::fmax(1, std::abs(w))) continue;
      std::fprintf(stderr, "%s %s: element %zu is %g, the reference says %g\n", shape.name, what, i, ToDouble(out[i]),
                   w);
      std::abort();
    }
  }
  void CheckAgainstReference() {
    std::vector<T> want(x.size());
    const NcsView<T> to = {want.data(), shape.outer, shape.num_channels, shape.inner};
    std::vector<double> m(mean.size()), v(var.size());
    reference::BatchStatistics(View(x), absl::MakeSpan(m), absl::MakeSpan(v));
    std::vector<double> i(inv_std.size());
    for (size_t c = 0; c < i.size(); ++c) i[c] = 1 / std::sqrt(v[c] + 1e-5);
    reference::Normalize(View(x), {.mean = m, .inv_std = i, .gamma = gamma, .beta = beta}, to);
    Train(2);
    RequireClose("y", want);
    reference::Backward(View(x), View(dy), {.mean = m, .inv_std = i, .gamma = gamma}, GradientMode::kBatch,
                        absl::MakeSpan(m), absl::MakeSpan(v), to);
    Gradient(2);
    RequireClose("dx", want);
  }

  Shape shape;
  std::vector<T> x, dy, out;
  std::vector<double> mean, var, inv_std, gamma, beta, dgamma, dbeta;
};

template <typename T>
void Register(const char* type) {
  for (const Shape& s : kShapes) {
    const auto layer = std::make_shared<Layer<T>>(s);
    const auto add = [&](const std::string& what, const char* implementation, int threads, int tensors,
                         void (Layer<T>::*run)(int)) {
      const std::string name =
          std::string(s.name) + "/" + type + "/" + what + "/" + implementation + "/threads:" + std::to_string(threads);
      benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) {
        UseImplementation(implementation);
        for (auto _ : state) {
          (layer.get()->*run)(threads);
          benchmark::ClobberMemory();
        }
        state.SetBytesProcessed(state.iterations() * tensors * s.Elements() * static_cast<int64_t>(sizeof(T)));
      })->UseRealTime();
    };
    for (const Implementation* implementation : SupportedImplementations()) {
      UseImplementation(implementation->name);
      layer->CheckAgainstReference();
      for (const int threads : {1, 2}) {
        add("train", implementation->name, threads, 2, &Layer<T>::Train);
        add("infer", implementation->name, threads, 2, &Layer<T>::Infer);
        add("backward", implementation->name, threads, 3, &Layer<T>::Gradient);
      }
    }
    add("memcpy", SupportedImplementations().front()->name, 1, 2, &Layer<T>::Copy);
  }
}

}  // namespace
}  // namespace normd::kernels

int main(int argc, char** argv) {
  using namespace normd::kernels;  // NOLINT(google-build-using-namespace)
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  Register<float>("float32");
  Register<double>("float64");
  Register<Float16>("float16");
  Register<BFloat16>("bfloat16");
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
