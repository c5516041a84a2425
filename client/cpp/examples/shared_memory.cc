// Large tensors without a copy, where client and server are on one host.
//
//   shared_memory [ADDRESS]
//
// A client with Transport::kSharedMemory allocates its tensors in memory that the server reads and writes where it
// stands. Where the server has none for it (another host, --shared-memory=false, a small /dev/shm), the same calls go
// through the messages, after one warning: a program need not care.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "normd/client.h"

namespace {

constexpr char kLayer[] = "examples.shared_memory";
constexpr int64_t kRows = 4096;
constexpr int64_t kChannels = 256;
constexpr int kRuns = 20;

// Infers the same tensor kRuns times and returns the result. Prints how long the fastest took.
absl::StatusOr<normd::Tensor> TimeInfer(normd::Client* client, const char* name) {
  // Allocated once and used again and again: fresh memory is slow to touch. With this client's transport it is shared.
  absl::StatusOr<normd::Tensor> x = client->AllocateTensor(normd::DType::kFloat32, {kRows, kChannels});
  if (!x.ok()) return x.status();
  const absl::Span<float> values = x->mutable_values<float>();
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000);

  double fastest_ms = 0;
  normd::Tensor y;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<normd::InferResult> result = client->Infer(kLayer, x->view());
    if (!result.ok()) return result.status();
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    if (run == 0 || ms < fastest_ms) fastest_ms = ms;
    y = std::move(result->output);
  }
  std::printf("%s: %.2f ms for %.0f MiB in and as many out\n", name, fastest_ms,
              static_cast<double>(y.bytes().size()) / (1 << 20));
  return y;
}

absl::Status Run(const char* address) {
  std::atomic<bool> fell_back{false};
  normd::ClientOptions options;
  options.transport = normd::Transport::kSharedMemory;
  // Without this the warning goes to stderr.
  options.on_warning = [&fell_back](absl::string_view warning) {
    fell_back = true;
    std::printf("warning: %s\n", std::string(warning).c_str());
  };
  const std::unique_ptr<normd::Client> shared = normd::Client::Connect(address, options);
  const std::unique_ptr<normd::Client> plain = normd::Client::Connect(address);

  normd::LayerSpec spec;
  spec.name = kLayer;
  spec.config.num_channels = kChannels;
  spec.initial_state.emplace();
  spec.initial_state->running_mean.assign(kChannels, 500);
  spec.initial_state->running_var.assign(kChannels, 10000);
  spec.initial_state->sample_count.assign(kChannels, 1000);
  const auto layer = plain->CreateLayer(spec);
  if (!layer.ok() && !absl::IsAlreadyExists(layer.status())) return layer.status();

  const absl::StatusOr<normd::Tensor> through_messages = TimeInfer(plain.get(), "messages");
  if (!through_messages.ok()) return through_messages.status();
  const absl::StatusOr<normd::Tensor> through_memory = TimeInfer(shared.get(), "transport shm");
  if (!through_memory.ok()) return through_memory.status();
  std::printf("the tensors of the second travelled in %s\n", fell_back ? "messages" : "shared memory");

  // The way makes no difference to a single bit.
  const absl::Span<const char> a = through_messages->bytes();
  const absl::Span<const char> b = through_memory->bytes();
  if (a != b) return absl::InternalError("the two ways gave different results");
  const absl::Span<const float> y = through_memory->values<float>();
  std::printf("same bits; 0 becomes %.7g and 999 becomes %.7g\n", static_cast<double>(y[0]),
              static_cast<double>(y[999]));
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const absl::Status status = Run(argc > 1 ? argv[1] : "127.0.0.1:50051");
  if (status.ok()) return 0;
  std::fprintf(stderr, "shared_memory: %s\n", status.ToString().c_str());
  return 1;
}
