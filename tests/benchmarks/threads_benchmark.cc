// When a second thread pays: one call at a time with a pause after it, as a server meets them, run inline and serial
// against handed to the compute thread and split over its team. Prints a Markdown table of medians, and the CPU time
// that each way costs, spinning included. The choice that follows from it is ThreadsFor (server/kernels/parallelism.h).
//
//   GOMP_SPINCOUNT=2000 build/bench/tests/benchmarks/threads_benchmark
//
// normd sets GOMP_SPINCOUNT for itself; unset it to see libgomp's own default, or try OMP_WAIT_POLICY=passive.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <future>
#include <thread>
#include <vector>

#include "server/base/compute_thread.h"
#include "server/kernels/batch_norm.h"
#include "server/kernels/parallelism.h"

namespace normd::kernels {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kCalls = 200;
constexpr auto kPause = std::chrono::milliseconds(2);

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Cost {
  double median_us;
  double cpu_us;
};

template <typename F>
Cost Measure(const F& call) {
  std::vector<double> us;
  call();
  const double cpu = CpuSeconds();
  for (int i = 0; i < kCalls; ++i) {
    const auto start = Clock::now();
    call();
    us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    std::this_thread::sleep_for(kPause);
  }
  const double cpu_us = (CpuSeconds() - cpu) / kCalls * 1e6;
  std::nth_element(us.begin(), us.begin() + kCalls / 2, us.end());
  return {us[kCalls / 2], cpu_us};
}

void Row(base::ComputeThread* compute, int64_t kib, int threads) {
  const int64_t outer = kib * 1024 / 2 / 4 / 256;
  std::vector<float> x(static_cast<size_t>(outer * 256), 1.5F);
  std::vector<float> y(x.size());
  std::vector<double> mean(256), var(256);
  const auto train = [&](int team) {
    NormalizeBatch<float>({x.data(), outer, 256, 1}, {}, team, absl::MakeSpan(mean), absl::MakeSpan(var),
                          {y.data(), outer, 256, 1});
  };
  const auto hand_over = [&](int team) {
    std::promise<void> done;
    base::ComputeThread::Job job = [&] {
      train(team);
      done.set_value();
    };
    if (!compute->Submit(job)) std::abort();
    done.get_future().wait();
  };
  const Cost serial = Measure([&] { train(1); });
  const Cost handed = Measure([&] { hand_over(1); });
  const Cost split = Measure([&] { hand_over(threads); });
  std::printf("| %ld KiB | %.0f / %.0f | %.0f / %.0f | %.0f / %.0f | %d |\n", kib, serial.median_us, serial.cpu_us,
              handed.median_us, handed.cpu_us, split.median_us, split.cpu_us, ThreadsFor(kib << 10, threads));
}

}  // namespace
}  // namespace normd::kernels

int main() {
  const int cores = normd::kernels::AvailableCores();
  normd::base::ComputeThread compute(1);
  std::printf(
      "| bytes touched | inline: us / CPU us | compute thread, 1 thread | compute thread, %d threads | ThreadsFor |\n"
      "|---|---|---|---|---|\n",
      cores);
  for (const int64_t kib : {64, 256, 1024, 2048, 4096, 8192, 16384, 32768}) {
    normd::kernels::Row(&compute, kib, cores);
  }
  return 0;
}
