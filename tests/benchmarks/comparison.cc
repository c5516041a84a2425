// The kernels beside PyTorch and oneDNN and beside what memory allows, in one process on the same arrays. Every result
// is checked against the float64 reference before it is timed. Prints one JSON object per measurement; report.py makes
// the table, the plot and the verdict of them. tests/benchmarks/run.sh runs all of it.
//
//   batch_norm_comparison [--threads 1,2] [--rounds 7] [--filter SHAPE] [--torch-as-installed]
//
// A round runs every contestant once, long enough to be in its own steady state; ratios are taken within a round.
// --torch-as-installed measures PyTorch alone with the settings of a fresh process: its own threads and fresh memory
// for each result.
#include <malloc.h>
#include <oneapi/dnnl/dnnl_debug.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <string>
#include <vector>

#include "server/kernels/batch_norm.h"
#include "server/kernels/implementation.h"
#include "server/kernels/reference.h"
#include "tests/benchmarks/cases.h"
#include "tests/benchmarks/memory_limits.h"
#include "tests/benchmarks/peers.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace normd::benchmarks {
namespace {

using kernels::NcsView;

constexpr double kEps = 1e-5;
constexpr int64_t kMaxElements = int64_t{32} * 64 * 112 * 112;

struct Contestant {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds = {};
  int repeats = 1;
};

double SecondsOf(const std::function<void()>& f, int repeats) {
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < repeats; ++i) f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / repeats;
}

// The arrays that every case works on.
struct Arrays {
  float* x = AllocateTouched(kMaxElements + 64);
  float* dy = AllocateTouched(kMaxElements + 64);
  float* out = AllocateTouched(kMaxElements + 64);
  float* peer_out = AllocateTouched(kMaxElements + 64);

  Arrays() {
    std::mt19937 generator(1);
    std::normal_distribution<float> normal(3, 1);
    // A prime number of values repeated: drawing all takes longer than the measurements.
    std::vector<float> noise(65521);
    for (float& v : noise) v = normal(generator);
    for (int64_t i = 0; i < kMaxElements; ++i) {
      x[i] = noise[i % 65521];
      dy[i] = noise[(i + 7919) % 65521] - 3;
    }
  }
};

// One case with the parameters of its layer.
struct Layer {
  const Case& c;
  NcsView<const float> x;
  NcsView<const float> dy;
  NcsView<float> out;
  std::vector<double> mean, var, inv_std, gamma, beta, dgamma, dbeta;

  Layer(const Case& tested, const Arrays& arrays)
      : c(tested),
        x{arrays.x, tested.outer(), tested.num_channels, tested.inner()},
        dy{arrays.dy, tested.outer(), tested.num_channels, tested.inner()},
        out{arrays.out, tested.outer(), tested.num_channels, tested.inner()},
        mean(tested.num_channels),
        var(tested.num_channels),
        inv_std(tested.num_channels),
        gamma(tested.num_channels, 1.25),
        beta(tested.num_channels, -0.5),
        dgamma(tested.num_channels),
        dbeta(tested.num_channels) {}

  PeerLayer AsPeer() const {
    return {c.layout, c.batch, c.num_channels, c.height, c.width, x.data, dy.data, mean, var, gamma[0], beta[0], kEps};
  }
  kernels::ChannelParams Params() const { return {.mean = mean, .inv_std = inv_std, .gamma = gamma, .beta = beta}; }
  void Train(int threads) {
    kernels::NormalizeBatch(x, {.eps = kEps, .gamma = gamma, .beta = beta}, threads, absl::MakeSpan(mean),
                            absl::MakeSpan(var), out);
  }
  void Infer(int threads) {
    kernels::InverseStd(var, kEps, absl::MakeSpan(inv_std));
    kernels::Normalize(x, Params(), threads, out);
  }
  void Backward(int threads) {
    kernels::InverseStd(var, kEps, absl::MakeSpan(inv_std));
    kernels::Backward(x, dy, Params(), kernels::GradientMode::kBatch, threads, absl::MakeSpan(dgamma),
                      absl::MakeSpan(dbeta), out);
  }
};

// The outputs in float64 arithmetic, for `got` to be compared with.
struct Truth {
  std::vector<float> y;
  std::vector<float> dx;

  explicit Truth(const Layer& layer) : y(layer.c.elements()), dx(layer.c.elements()) {
    Layer plain = layer;
    kernels::reference::BatchStatistics(plain.x, absl::MakeSpan(plain.mean), absl::MakeSpan(plain.var));
    for (size_t i = 0; i < plain.var.size(); ++i) plain.inv_std[i] = 1 / std::sqrt(plain.var[i] + kEps);
    plain.out.data = y.data();
    kernels::reference::Normalize(plain.x, plain.Params(), plain.out);
    plain.out.data = dx.data();
    kernels::reference::Backward(plain.x, plain.dy, plain.Params(), kernels::GradientMode::kBatch,
                                 absl::MakeSpan(plain.dgamma), absl::MakeSpan(plain.dbeta), plain.out);
  }
};

double WorstError(const float* got, const std::vector<float>& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(static_cast<double>(got[i]) - want[i]) / std::max(1.0F, std::abs(want[i]));
    worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
  }
  return worst;
}

void Require(const Case& c, const std::string& what, double error, double limit) {
  if (error <= limit) return;
  std::fprintf(stderr, "%s %s, %s: the largest error is %g, want at most %g\n", c.shape.c_str(), c.layout.c_str(),
               what.c_str(), error, limit);
  std::exit(1);
}

void Time(std::vector<Contestant>* contestants, int rounds) {
  // Long enough to leave behind what the contestant before left in the caches.
  constexpr double kSecondsOfARound = 0.012;
  for (Contestant& contestant : *contestants) {
    contestant.run();
    const double once = SecondsOf(contestant.run, 1);
    contestant.repeats = std::clamp(static_cast<int>(kSecondsOfARound / once), 2, 20000);
  }
  for (int round = 0; round < rounds; ++round) {
    for (Contestant& contestant : *contestants) {
      contestant.run();
      contestant.seconds.push_back(SecondsOf(contestant.run, contestant.repeats));
    }
  }
}

void Print(const Case& c, const std::string& op, int threads, const std::vector<Contestant>& contestants) {
  nlohmann::json record = {{"shape", c.shape},
                           {"layout", c.layout},
                           {"op", op},
                           {"threads", threads},
                           {"bytes", c.elements() * 4 * (op == "backward" ? 3 : 2)},
                           {"tensor_bytes", c.elements() * 4},
                           {"inner", c.inner()}};
  record["implementation"] = kernels::ActiveImplementation().name;
  for (const Contestant& contestant : contestants) record["seconds"][contestant.name] = contestant.seconds;
  std::printf("%s\n", record.dump().c_str());
  std::fflush(stdout);
}

void Compare(const Case& c, const Arrays& arrays, const std::vector<int>& thread_counts, int rounds) {
  Layer layer(c, arrays);
  const Truth truth(layer);
  const auto count = static_cast<size_t>(c.elements());
  // Contestants are given at least 64 elements, for whole vectors.
  const size_t lines = (count + 63) / 64 * 64;
  layer.Train(2);
  Require(c, "y", WorstError(arrays.out, truth.y), 4 * std::ldexp(1.0, -24));
  layer.Infer(2);
  Require(c, "y of inference", WorstError(arrays.out, truth.y), 4 * std::ldexp(1.0, -24));
  layer.Backward(2);
  Require(c, "dx", WorstError(arrays.out, truth.dx), 4 * std::ldexp(1.0, -24));
  // PyTorch 1.13 sums channels-last tensors in float32; a wrong call would be off by far more than this.
  constexpr double kPeerError = 1e-3;

  const std::vector<MemoryLimit> limits = MemoryLimits();
  for (const int threads : thread_counts) {
#ifdef _OPENMP
    omp_set_num_threads(threads);
#endif
    SetTorchThreads(threads);
    Torch torch(layer.AsPeer());
    // A oneDNN primitive keeps the number of threads that it was made with.
    OneDnn onednn(layer.AsPeer(), arrays.peer_out);
    if (c.batch * c.height * c.width > 1) {
      torch.Train();
      Require(c, "PyTorch's y", WorstError(torch.out(), truth.y), kPeerError);
      torch.Backward();
      Require(c, "PyTorch's dx", WorstError(torch.out(), truth.dx), kPeerError);
    }
    onednn.Train();
    Require(c, "oneDNN's y", WorstError(arrays.peer_out, truth.y), kPeerError);
    onednn.Backward();
    Require(c, "oneDNN's dx", WorstError(arrays.peer_out, truth.dx), kPeerError);
    std::vector<Contestant> train, infer, backward;
    for (const MemoryLimit& limit : limits) {
      const auto copy = [&, threads] { limit.copy(threads, arrays.x, arrays.out, lines); };
      train.push_back({"limit: " + limit.name, copy});
      infer.push_back({"limit: " + limit.name, copy});
      backward.push_back(
          {"limit: " + limit.name, [&, threads] { limit.triad(threads, arrays.x, arrays.dy, arrays.out, lines); }});
    }

    train.push_back({"normd", [&, threads] { layer.Train(threads); }});
    infer.push_back({"normd", [&, threads] { layer.Infer(threads); }});
    backward.push_back({"normd", [&, threads] { layer.Backward(threads); }});
    if (c.batch * c.height * c.width > 1) train.push_back({"torch", [&] { torch.Train(); }});
    infer.push_back({"torch", [&] { torch.Infer(); }});
    backward.push_back({"torch", [&] { torch.Backward(); }});
    train.push_back({"onednn", [&] { onednn.Train(); }});
    infer.push_back({"onednn", [&] { onednn.Infer(); }});
    backward.push_back({"onednn", [&] { onednn.Backward(); }});
    Time(&train, rounds);
    Print(c, "train", threads, train);
    Time(&infer, rounds);
    Print(c, "infer", threads, infer);
    Time(&backward, rounds);
    Print(c, "backward", threads, backward);
  }
}

void TorchAsInstalled(const Case& c, const Arrays& arrays, int rounds) {
  Layer layer(c, arrays);
  layer.Train(1);
  Torch torch(layer.AsPeer());
  std::vector<Contestant> train, infer, backward;
  if (c.batch * c.height * c.width > 1) train.push_back({"torch as installed", [&] { torch.Train(); }});
  infer.push_back({"torch as installed", [&] { torch.Infer(); }});
  backward.push_back({"torch as installed", [&] { torch.Backward(); }});
  const int threads = TorchThreads();
  for (auto& [op, contestants] :
       std::map<std::string, std::vector<Contestant>*>{{"train", &train}, {"infer", &infer}, {"backward", &backward}}) {
    Time(contestants, rounds);
    Print(c, op, threads, *contestants);
  }
}

// Freed memory stays mapped, so that a peer's fresh result does not cost fresh pages.
void KeepMemory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 0x7FFFFFFF);
  mallopt(M_TOP_PAD, 256 << 20);
}

}  // namespace
}  // namespace normd::benchmarks

int main(int argc, char** argv) {
  namespace benchmarks = normd::benchmarks;
  CLI::App app("normd's kernels beside PyTorch, oneDNN and a copy");
  std::vector<int> threads = {1, 2};
  int rounds = 7;
  std::string filter;
  std::string implementation;
  bool as_installed = false;
  app.add_option("--threads", threads, "thread counts")->delimiter(',');
  app.add_option("--rounds", rounds, "interleaved rounds")->check(CLI::Range(1, 1000));
  app.add_option("--filter", filter, "only cases whose 'shape layout' contains this");
  app.add_option("--implementation", implementation, "avx512, avx2 or baseline instead of the best");
  app.add_flag("--torch-as-installed", as_installed, "only PyTorch, with the settings of a fresh process");
  CLI11_PARSE(app, argc, argv);
  if (!implementation.empty() && !normd::kernels::UseImplementation(implementation)) {
    std::fprintf(stderr, "implementation '%s' is not one of this machine's\n", implementation.c_str());
    return 1;
  }
  if (!as_installed) benchmarks::KeepMemory();
  const benchmarks::Arrays arrays;
  for (const benchmarks::Case& c : benchmarks::Cases()) {
    if ((c.shape + " " + c.layout).find(filter) == std::string::npos) continue;
    if (as_installed) {
      benchmarks::TorchAsInstalled(c, arrays, rounds);
    } else {
      benchmarks::Compare(c, arrays, threads, rounds);
    }
  }
  return 0;
}
