// Many requests in flight at a time, from one thread.
//
//   async_fan_out [ADDRESS]
//
// Sends 500 tensors through InferAsync, at most 32 of them unanswered, and gathers the results as they come. Two of the
// calls are made to fail, to show that a failure is that call's alone: one tensor has a channel too many, and one call
// has no time.
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <semaphore>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "normd/client.h"

namespace {

constexpr char kLayer[] = "examples.fan_out";
constexpr int kCalls = 500;
constexpr int kInFlight = 32;
constexpr int64_t kRows = 16;
constexpr int64_t kChannels = 2;

// What the calls came to. Their answers come on threads of the client's, so it locks.
class Results {
 public:
  void Add(int call, const absl::StatusOr<normd::InferResult>& result) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!result.ok()) {
      failed_[call] = result.status();
      return;
    }
    ++succeeded_;
    for (const float y : result->output.values<float>()) sum_ += static_cast<double>(y);
  }

  // Prints everything. Ordered by call, whatever the order of the answers.
  absl::Status Report() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::printf("%d of %d calls succeeded, the sum of their results is %.9g\n", succeeded_, kCalls, sum_);
    for (const auto& [call, status] : failed_) std::printf("call %d: %s\n", call, status.ToString().c_str());
    // DEADLINE_EXCEEDED and INVALID_ARGUMENT are what was asked for; anything else is not.
    for (const auto& [call, status] : failed_) {
      if (!absl::IsDeadlineExceeded(status) && !absl::IsInvalidArgument(status)) return status;
    }
    return absl::OkStatus();
  }

 private:
  mutable std::mutex mutex_;
  int succeeded_ = 0;
  double sum_ = 0;
  std::map<int, absl::Status> failed_;
};

absl::Status Run(const char* address) {
  const std::unique_ptr<normd::Client> client = normd::Client::Connect(address);
  // A layer that normalizes with known statistics: y = (x - mean) / sqrt(var + eps).
  normd::LayerSpec spec;
  spec.name = kLayer;
  spec.config.num_channels = kChannels;
  spec.initial_state.emplace();
  spec.initial_state->running_mean = {100, 200};
  spec.initial_state->running_var = {4, 25};
  spec.initial_state->sample_count = {1000, 1000};
  const auto layer = client->CreateLayer(spec);
  if (!layer.ok() && !absl::IsAlreadyExists(layer.status())) return layer.status();

  Results results;
  std::counting_semaphore<kInFlight> places(kInFlight);
  for (int call = 0; call < kCalls; ++call) {
    places.acquire();
    const int64_t num_channels = call == 123 ? kChannels + 1 : kChannels;
    std::vector<float> x(kRows * num_channels);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(100 + call % 7 + static_cast<int>(i));
    normd::InferOptions options;
    // Of this call, with its retries. The client's own is 30 s.
    options.timeout = call == 321 ? absl::ZeroDuration() : absl::Seconds(10);
    // x is copied before InferAsync returns, so it may go. `done` runs on a thread of the client's and must not block.
    client->InferAsync(kLayer, normd::TensorView(x, {kRows, num_channels}), options,
                       [&results, &places, call](const absl::StatusOr<normd::InferResult>& result) {
                         results.Add(call, result);
                         places.release();
                       });
  }
  // All places free: every answer is there.
  for (int place = 0; place < kInFlight; ++place) places.acquire();
  return results.Report();
}

}  // namespace

int main(int argc, char** argv) {
  const absl::Status status = Run(argc > 1 ? argv[1] : "127.0.0.1:50051");
  if (status.ok()) return 0;
  std::fprintf(stderr, "async_fan_out: %s\n", status.ToString().c_str());
  return 1;
}
