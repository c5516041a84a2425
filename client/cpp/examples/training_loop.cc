// A training loop whose batch normalization lives on the server.
//
//   training_loop [ADDRESS]
//
// A layer learns to undo what a sensor does to a signal: x = 5 + 3 * signal goes in, 2 * signal + 1 is wanted. The
// server normalizes each batch (TrainStep), keeps the running statistics, and turns the gradient of the loss into a
// step of Adam on the layer's gamma and beta (Backward). In the end the layer is used as an inference service would.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "normd/client.h"

namespace {

constexpr char kLayer[] = "examples.training";
constexpr int kSteps = 200;
constexpr int64_t kBatch = 64;
constexpr int64_t kChannels = 4;

struct Batch {
  std::vector<float> x;
  std::vector<float> target;
};

Batch NextBatch(std::mt19937* random) {
  Batch batch;
  for (int64_t i = 0; i < kBatch * kChannels; ++i) {
    // Uniform with variance 1.
    const double signal = std::sqrt(12.0) * (static_cast<double>((*random)()) / 4294967296.0 - 0.5);
    batch.x.push_back(static_cast<float>(5 + 3 * signal));
    batch.target.push_back(static_cast<float>(2 * signal + 1));
  }
  return batch;
}

// The mean of (y - target)^2, and its gradient by y.
double Loss(absl::Span<const float> y, const std::vector<float>& target, std::vector<float>* dy) {
  double sum = 0;
  dy->resize(y.size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double error = static_cast<double>(y[i]) - static_cast<double>(target[i]);
    sum += error * error;
    (*dy)[i] = static_cast<float>(2 * error / static_cast<double>(y.size()));
  }
  return sum / static_cast<double>(y.size());
}

absl::Status Run(const char* address) {
  const std::unique_ptr<normd::Client> client = normd::Client::Connect(address);
  // A run before may have left a layer that has learned already.
  if (absl::Status status = client->DeleteLayer(kLayer); !status.ok() && !absl::IsNotFound(status)) return status;
  normd::LayerSpec spec;
  spec.name = kLayer;
  spec.preset = "pytorch";
  spec.config.num_channels = kChannels;
  if (const auto layer = client->CreateLayer(spec); !layer.ok()) return layer.status();

  std::mt19937 random(1);
  std::vector<float> dy;
  double first_loss = 0;
  double loss = 0;
  for (int step = 0; step < kSteps; ++step) {
    const Batch batch = NextBatch(&random);
    const normd::TensorView x(batch.x, {kBatch, kChannels});

    // Forward: y from the statistics of this batch, which are folded into the layer's.
    const auto forward = client->TrainStep(kLayer, x);
    if (!forward.ok()) return forward.status();
    loss = Loss(forward->y.values<float>(), batch.target, &dy);
    if (step == 0) first_loss = loss;

    // Backward: dx for the layers below, and a step on gamma and beta.
    normd::BackwardOptions options;
    options.batch_mean = forward->batch_mean;
    options.batch_var = forward->batch_var;
    options.optimizer = normd::Adam{.learning_rate = 0.05};
    options.omit_dx = true;  // There is no layer below.
    const auto backward = client->Backward(kLayer, x, normd::TensorView(dy, {kBatch, kChannels}), options);
    if (!backward.ok()) return backward.status();
    if (step % 50 == 0 || step == kSteps - 1) {
      std::printf("step %d: loss %.6g, gamma[0] %.6g, beta[0] %.6g\n", step, loss, backward->gamma[0],
                  backward->beta[0]);
    }
  }

  // The service: running statistics, learned gamma and beta; a signal of 1 is x = 8 and should come out near 3.
  const std::vector<float> x(kChannels, 8);
  const auto inferred = client->Infer(kLayer, normd::TensorView(x, {1, kChannels}));
  if (!inferred.ok()) return inferred.status();
  std::printf("version %lld answers %.5g to 8\n", static_cast<long long>(inferred->version),
              static_cast<double>(inferred->output.values<float>()[0]));
  if (!(loss < 0.1 * first_loss)) return absl::InternalError("the loss has not fallen to a tenth");
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const absl::Status status = Run(argc > 1 ? argv[1] : "127.0.0.1:50051");
  if (status.ok()) return 0;
  std::fprintf(stderr, "training_loop: %s\n", status.ToString().c_str());
  return 1;
}
