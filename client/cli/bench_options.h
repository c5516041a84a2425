#ifndef NORMD_CLIENT_CLI_BENCH_OPTIONS_H_
#define NORMD_CLIENT_CLI_BENCH_OPTIONS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "normd/options.h"
#include "normd/tensor.h"

namespace normd::cli {

// What a benchmark calls; counted apart, since the two cost different things.
enum class BenchCall { kInfer, kTrain };
inline constexpr std::array<BenchCall, 2> kBenchCalls = {BenchCall::kInfer, BenchCall::kTrain};
// As the verbs are called: "infer", "train".
std::string NameOf(BenchCall call);

// What to send, how often and for how long.
struct BenchOptions {
  // Sent in turn; at least one.
  std::vector<std::vector<int64_t>> shapes;
  DType dtype = DType::kFloat32;
  Layout layout = Layout::kChannelsFirst;
  // Part of the calls of each shape that are training steps.
  double train_fraction = 0;
  // An existing layer; empty: one for the benchmark alone.
  std::string layer;
  // Clients, each with a connection of its own; the calls go round.
  int connections = 1;
  // kSharedMemory: inputs and results stand in shared memory, and no call copies them.
  Transport transport = Transport::kGrpc;

  // Closed loop: calls that are always under way.
  int concurrency = 1;
  // Open loop: calls per second, on a schedule that no answer delays; 0: closed loop.
  double rate = 0;
  // Open loop: calls under way beyond which one that is due is dropped and counted. 0: MaxInFlight.
  int max_in_flight = 0;

  absl::Duration warmup = absl::Seconds(2);
  // Of each window.
  absl::Duration duration = absl::Seconds(5);
  int windows = 3;

  bool open_loop() const { return rate > 0; }
  // REQUIRES: CheckOptions has been OK.
  int64_t num_channels() const;
  // Of the elements of shapes[i].
  int64_t BytesOf(std::size_t shape) const;
};

// "256,64" or "256x64".
absl::StatusOr<std::vector<int64_t>> ParseShape(const std::string& text);

// What the flags do not check one by one: that the shapes have as many channels each and are not too large, and that
// the clients all have something to do. INVALID_ARGUMENT.
absl::Status CheckOptions(const BenchOptions& options);

// 1000, or fewer if the largest tensor is so large that their inputs and outputs would fill 512 MiB.
int MaxInFlight(const BenchOptions& options);

// Which of the calls of a run is which: call number `i` has shape i % shapes, and of each shape's calls every
// 1/train_fraction-th is a training step, evenly spread and the same in every run.
struct BenchStep {
  std::size_t shape = 0;
  BenchCall call = BenchCall::kInfer;
};
BenchStep StepAt(const BenchOptions& options, int64_t i);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_BENCH_OPTIONS_H_
