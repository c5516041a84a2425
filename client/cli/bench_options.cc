#include "client/cli/bench_options.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace normd::cli {
namespace {

constexpr std::size_t kMaxRank = 8;
// Of one tensor: what a message can hold.
constexpr int64_t kMaxBytes = (int64_t{1} << 31) - 4096;
constexpr int kMostInFlight = 1000;
constexpr int64_t kBytesInFlight = int64_t{512} << 20;

int64_t ChannelsOf(const BenchOptions& options, std::size_t shape) {
  const std::vector<int64_t>& extents = options.shapes[shape];
  return options.layout == Layout::kChannelsFirst ? extents[1] : extents.back();
}

// Calls of one shape among its first `k` that are training steps.
int64_t TrainStepsAmong(double fraction, int64_t k) {
  return static_cast<int64_t>(std::floor(fraction * static_cast<double>(k)));
}

}  // namespace

std::string NameOf(BenchCall call) { return call == BenchCall::kTrain ? "train" : "infer"; }

int64_t BenchOptions::num_channels() const { return ChannelsOf(*this, 0); }

int64_t BenchOptions::BytesOf(std::size_t shape) const {
  int64_t bytes = static_cast<int64_t>(ElementBytes(dtype));
  for (const int64_t extent : shapes[shape]) bytes *= extent;
  return bytes;
}

absl::StatusOr<std::vector<int64_t>> ParseShape(const std::string& text) {
  std::vector<int64_t> shape;
  // Extents multiply to what a message can hold, so that no product overflows later.
  int64_t elements = 1;
  for (const absl::string_view word : absl::StrSplit(text, absl::ByAnyChar(",x"))) {
    int64_t extent = 0;
    if (!absl::SimpleAtoi(word, &extent) || extent < 1) {
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no shape; try 256,64"));
    }
    if (extent > kMaxBytes / elements) {
      return absl::InvalidArgumentError(absl::StrCat("'", text, "' is more than a message can hold"));
    }
    elements *= extent;
    shape.push_back(extent);
  }
  if (shape.size() < 2 || shape.size() > kMaxRank) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' has ", shape.size(), " dimensions, want 2 to ", kMaxRank));
  }
  return shape;
}

absl::Status CheckOptions(const BenchOptions& options) {
  for (std::size_t i = 0; i < options.shapes.size(); ++i) {
    if (options.BytesOf(i) > kMaxBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("--shape: a tensor has ", options.BytesOf(i), " bytes, more than a message can hold"));
    }
    if (ChannelsOf(options, i) != options.num_channels()) {
      return absl::InvalidArgumentError(absl::StrCat("--shape: one shape has ", options.num_channels(),
                                                     " channels and another ", ChannelsOf(options, i),
                                                     "; they go to one layer"));
    }
  }
  const int under_way = options.open_loop() ? MaxInFlight(options) : options.concurrency;
  if (options.connections > under_way) {
    return absl::InvalidArgumentError(
        absl::StrCat("--connections: ", options.connections, " are more than the calls under way, ", under_way));
  }
  return absl::OkStatus();
}

int MaxInFlight(const BenchOptions& options) {
  if (options.max_in_flight > 0) return options.max_in_flight;
  int64_t largest = 1;
  for (std::size_t i = 0; i < options.shapes.size(); ++i) largest = std::max(largest, options.BytesOf(i));
  return static_cast<int>(std::clamp<int64_t>(kBytesInFlight / (2 * largest), 1, kMostInFlight));
}

BenchStep StepAt(const BenchOptions& options, int64_t i) {
  const auto shapes = static_cast<int64_t>(options.shapes.size());
  const int64_t k = i / shapes;
  const bool train = TrainStepsAmong(options.train_fraction, k + 1) > TrainStepsAmong(options.train_fraction, k);
  return {static_cast<std::size_t>(i % shapes), train ? BenchCall::kTrain : BenchCall::kInfer};
}

}  // namespace normd::cli
