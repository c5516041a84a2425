#include "tests/benchmarks/rpc/normd_layer.h"

#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "tests/benchmarks/rpc/workload.h"

namespace normd::benchmarks {

absl::Status EnsureLayer(Client* client, const std::string& name, int64_t num_channels) {
  const auto channels = static_cast<std::size_t>(num_channels);
  LayerState state;
  state.running_mean.assign(channels, kRunningMean);
  state.running_var.assign(channels, kRunningVar);
  state.gamma.assign(channels, kGamma);
  state.beta.assign(channels, kBeta);
  LayerSpec spec;
  spec.name = name;
  spec.preset = "pytorch";
  spec.config.num_channels = num_channels;
  spec.config.eps = kEps;
  spec.initial_state = state;
  const absl::Status status = client->CreateLayer(spec).status();
  if (status.ok() || absl::IsAlreadyExists(status)) return absl::OkStatus();
  return absl::Status(status.code(), absl::StrCat("cannot make layer '", name, "': ", status.message()));
}

}  // namespace normd::benchmarks
