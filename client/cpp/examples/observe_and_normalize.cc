// Many actors of a reinforcement learner, one observation normalizer.
//
//   observe_and_normalize [ADDRESS]
//
// Each actor has a normd::RunningNormalizer on the same layer. It observes and normalizes in its own thread, without a
// call to the server; what it saw goes there in the background, each value once. In the end the layer holds the mean
// and variance of everything that all actors saw, as if one process had seen it.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "normd/client.h"
#include "normd/running_normalizer.h"

namespace {

constexpr char kLayer[] = "examples.observations";
constexpr int kActors = 4;
constexpr int kSteps = 50;
constexpr int kEnvs = 8;  // Environments that an actor steps together.
constexpr int kChannels = 3;

// Stands for the environments: kEnvs observations, one after the other, of a position in metres, an angle in radians
// and a pressure in pascals. Such scales are why observations are normalized.
std::vector<float> StepEnvironments(std::mt19937* random) {
  constexpr double kLowest[kChannels] = {-2, 0, 99000};
  constexpr double kRange[kChannels] = {4, 6.25, 2000};
  std::vector<float> observations(kEnvs * kChannels);
  for (std::size_t i = 0; i < observations.size(); ++i) {
    const double uniform = static_cast<double>((*random)()) / 4294967296.0;
    observations[i] = static_cast<float>(kLowest[i % kChannels] + kRange[i % kChannels] * uniform);
  }
  return observations;
}

absl::Status RunActor(normd::Client* client, int actor) {
  // Makes the layer if no other actor has, with preset rl_observation: pooled statistics, normalized values in +-10.
  const auto normalizer = normd::RunningNormalizer::Open(client, kLayer, kChannels);
  if (!normalizer.ok()) return normalizer.status();
  std::mt19937 random(static_cast<uint32_t>(actor));
  std::vector<float> normalized(kEnvs * kChannels);
  for (int step = 0; step < kSteps; ++step) {
    const std::vector<float> observations = StepEnvironments(&random);
    absl::Status status = (*normalizer)->Observe(observations);
    if (status.ok()) status = (*normalizer)->Normalize(observations, absl::MakeSpan(normalized));
    if (!status.ok()) return status;
    // Here a policy would choose actions from `normalized`.
  }
  // The destructor pushes what is left, too; Flush tells whether it arrived.
  return (*normalizer)->Flush();
}

absl::Status Run(const char* address) {
  // One client for all threads.
  const std::unique_ptr<normd::Client> client = normd::Client::Connect(address);
  // A run before may have left its statistics.
  if (absl::Status status = client->DeleteLayer(kLayer); !status.ok() && !absl::IsNotFound(status)) return status;

  std::vector<absl::Status> statuses(kActors);
  std::vector<std::thread> actors;
  for (int actor = 0; actor < kActors; ++actor) {
    actors.emplace_back([&, actor] { statuses[actor] = RunActor(client.get(), actor); });
  }
  for (std::thread& actor : actors) actor.join();
  for (const absl::Status& status : statuses) {
    if (!status.ok()) return status;
  }

  // Whoever opens the layer now, in this process or another, begins with the statistics of all.
  const auto normalizer = normd::RunningNormalizer::Open(client.get(), kLayer, kChannels);
  if (!normalizer.ok()) return normalizer.status();
  const std::shared_ptr<const normd::RunningStatistics> statistics = (*normalizer)->statistics();
  std::printf("observations %.0f, version %lld\n", statistics->count, static_cast<long long>(statistics->version));
  const std::vector<float> sample = {1, 3, 100000};
  std::vector<float> y(sample.size());
  if (absl::Status status = (*normalizer)->Normalize(sample, absl::MakeSpan(y)); !status.ok()) return status;
  for (int c = 0; c < kChannels; ++c) {
    std::printf("channel %d: mean %.9g, var %.9g; %g becomes %.6g\n", c, statistics->mean[c], statistics->var[c],
                static_cast<double>(sample[c]), static_cast<double>(y[c]));
  }
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  const absl::Status status = Run(argc > 1 ? argv[1] : "127.0.0.1:50051");
  if (status.ok()) return 0;
  std::fprintf(stderr, "observe_and_normalize: %s\n", status.ToString().c_str());
  return 1;
}
