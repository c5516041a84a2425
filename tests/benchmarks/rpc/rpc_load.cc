// One client for every server: calls in a closed loop, and says how many requests per second were answered, and how
// fast. Both sides of a ratio have the same client cost. Before anything is timed, one answer is checked.
//
//   rpc_load --target unix:/run/normd.sock --call normd-infer --shape 32,64,32,32 [--mode raw] [--concurrency 1] ...
//
// Prints JSON lines: {"event":"started"} after the warm-up, {"event":"progress","requests":N} if asked for, and at last
// {"event":"result",...}. SIGTERM and SIGINT end the measurement early; the result is printed all the same.
#include <signal.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "server/base/process_settings.h"
#include "server/kernels/parallelism.h"
#include "tests/benchmarks/rpc/caller.h"
#include "tests/benchmarks/rpc/closed_loop.h"

namespace normd::benchmarks {
namespace {

std::atomic<bool> stop = false;
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");

void Print(const nlohmann::json& line) {
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

int Run(const std::string& mode, const CallerOptions& caller_options, LoopOptions loop_options,
        int64_t progress_every) {
  absl::StatusOr<std::unique_ptr<Caller>> made = MakeCaller(mode, caller_options);
  // Never deleted: before it lets a channel go, gRPC waits for a poller of its own, for up to 10 s.
  Caller* const caller = made.ok() ? made->release() : nullptr;
  const absl::Status status = made.ok() ? caller->Prepare() : made.status();
  if (!status.ok()) {
    std::fprintf(stderr, "rpc_load: %s: %s\n", caller_options.call.c_str(), status.ToString().c_str());
    return 1;
  }
  loop_options.stop = &stop;
  loop_options.on_start = [] { Print({{"event", "started"}}); };
  int64_t next = progress_every;
  loop_options.on_progress = [&](int64_t requests) {
    if (progress_every == 0 || requests < next) return;
    Print({{"event", "progress"}, {"requests", requests}});
    next = requests + progress_every;
  };
  const absl::StatusOr<LoopResult> result = RunClosedLoop(caller, loop_options);
  if (!result.ok()) {
    std::fprintf(stderr, "rpc_load: %s: %s\n", caller_options.call.c_str(), result.status().ToString().c_str());
    return 1;
  }
  Print({{"event", "result"},
         {"mode", mode},
         {"call", caller_options.call},
         {"shape", caller_options.shape},
         {"concurrency", loop_options.concurrency},
         {"requests", result->requests},
         {"seconds", result->seconds},
         {"requests_per_second", static_cast<double>(result->requests) / result->seconds},
         {"min_us", result->latencies_us.front()},
         {"p50_us", result->Quantile(0.50)},
         {"p99_us", result->Quantile(0.99)},
         {"max_us", result->latencies_us.back()}});
  return 0;
}

}  // namespace
}  // namespace normd::benchmarks

int main(int argc, char** argv) {
  namespace benchmarks = normd::benchmarks;
  benchmarks::CallerOptions caller;
  benchmarks::LoopOptions loop;
  std::string mode = "raw";
  int64_t progress_every = 0;
  bool default_allocator = false;
  bool list_modes = false;
  CLI::App app("Calls a server in a closed loop");
  app.option_defaults()->always_capture_default();
  app.add_option("--target", caller.target, "host:port, or unix:/path");
  app.add_option("--mode", mode, "how to call")->check(CLI::IsMember(benchmarks::ModeNames()));
  app.add_option("--call", caller.call, "what to call")->check(CLI::IsMember(benchmarks::CallNames()));
  app.add_option("--shape", caller.shape, "extents of the float32 tensor, channels first")
      ->delimiter(',')
      ->expected(2, 8)
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31));
  app.add_option("--concurrency", loop.concurrency, "calls at a time")->check(CLI::Range(1, 1024));
  app.add_option("--warm-up", loop.warm_up_seconds, "seconds before anything counts");
  app.add_option("--seconds", loop.seconds, "how long to measure");
  app.add_option("--min-requests", loop.min_requests, "measure longer, until so many were answered");
  app.add_option("--max-seconds", loop.max_seconds, "but not longer than this");
  app.add_option("--requests", loop.exact_requests, "so many requests, whatever time it takes; 0: by time");
  app.add_option("--progress", progress_every, "print a line after so many requests; 0: never");
  app.add_flag("--default-allocator", default_allocator, "give freed memory back, as malloc does unasked");
  app.add_flag("--list-modes", list_modes, "print the modes, one a line, and end");
  CLI11_PARSE(app, argc, argv);
  if (list_modes) {
    for (const std::string& name : benchmarks::ModeNames()) std::printf("%s\n", name.c_str());
    return 0;
  }
  if (caller.target.empty() || caller.call.empty() || caller.shape.empty()) {
    std::fprintf(stderr, "rpc_load: --target, --call and --shape are required\n");
    return 2;
  }
  if (!default_allocator) normd::base::KeepFreedMemory(normd::kernels::AvailableCores());
  caller.lanes = loop.concurrency;
  for (const int number : {SIGTERM, SIGINT}) signal(number, [](int) { benchmarks::stop = true; });
  std::quick_exit(benchmarks::Run(mode, caller, loop, progress_every));
}
