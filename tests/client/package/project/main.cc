// A program outside of normd's tree: app TARGET creates a layer on a running server, trains it and prints what came
// back.
#include <cmath>
#include <cstdio>
#include <vector>

#include "normd/client.h"
#include "normd/running_normalizer.h"
#include "normd/version.h"

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto client = normd::Client::Connect(argv[1]);
  normd::LayerSpec spec;
  spec.name = "external.bn";
  spec.config.num_channels = 2;
  const auto layer = client->CreateLayer(spec);
  if (!layer.ok()) {
    std::fprintf(stderr, "%s\n", layer.status().ToString().c_str());
    return 1;
  }
  const std::vector<float> x = {1, 10, 3, 30};
  const normd::TensorView view(absl::MakeConstSpan(x), {2, 2});
  const auto step = client->TrainStep("external.bn", view);
  if (!step.ok()) {
    std::fprintf(stderr, "%s\n", step.status().ToString().c_str());
    return 1;
  }
  std::printf("normd %s: batch_mean %g %g, y %g\n", std::string(normd::Version()).c_str(), step->batch_mean[0],
              step->batch_mean[1], static_cast<double>(step->y.values<float>()[0]));
  // With the kernels' library.
  const auto moments = normd::ComputeMoments(view);
  if (!moments.ok() || moments->mean != step->batch_mean) return 1;
  const auto normalizer = normd::RunningNormalizer::Open(client.get(), "external.obs", 2);
  std::vector<float> y(x.size());
  if (!normalizer.ok() || !(*normalizer)->Observe(x).ok() || !(*normalizer)->Flush().ok() ||
      !(*normalizer)->Normalize(x, absl::MakeSpan(y)).ok() || y != std::vector<float>{-1, -1, 1, 1}) {
    return 1;
  }
  // (1 - 2) / sqrt(1 + 1e-5).
  return std::abs(step->y.values<float>()[0] + 1 / std::sqrt(1 + 1e-5)) < 1e-6 ? 0 : 1;
}
