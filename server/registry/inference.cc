#include "server/registry/inference.h"

#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/registry/normalizer.h"
#include "server/registry/tensor_kernels.h"
#include "server/registry/version_pin.h"

namespace normd::registry {

absl::StatusOr<InferenceResult> Infer(const LayerRegistry& registry, absl::string_view name, const layer::TensorView& x,
                                      int64_t version, const CallControl& control, char* y) {
  absl::StatusOr<LayerRegistry::SnapshotPtr> found = registry.Get(name);
  if (!found.ok()) return found.status();
  const layer::LayerSnapshot& snapshot = **found;
  if (absl::Status status = CheckVersionPin(snapshot, version); !status.ok()) return status;
  absl::StatusOr<layer::NcsShape> ncs = layer::CheckTensor(name, "x", x, snapshot.config->num_channels);
  if (!ncs.ok()) return ncs.status();
  if (absl::Status status = control.CheckAlive(); !status.ok()) return status;

  const KernelInput input(x, *ncs);
  std::vector<double> own_mean;
  std::vector<double> own_var;
  absl::Span<const double> mean = snapshot.statistics->running_mean;
  absl::Span<const double> var = snapshot.statistics->running_var;
  if (!snapshot.config->track_running_stats) {
    own_mean.resize(static_cast<size_t>(ncs->num_channels));
    own_var.resize(static_cast<size_t>(ncs->num_channels));
    BatchStatistics(input, control.threads, absl::MakeSpan(own_mean), absl::MakeSpan(own_var));
    mean = own_mean;
    var = own_var;
  }
  const Normalizer normalizer(*snapshot.config, mean, var);
  Normalize(input, normalizer.Params(snapshot.affine->gamma, snapshot.affine->beta), control.threads, y);
  return InferenceResult{.version = snapshot.version, .content_hash = snapshot.content_hash};
}

absl::StatusOr<ChunkedInference> InferInChunks(const LayerRegistry& registry, absl::string_view name,
                                               const layer::TensorView& x, int64_t version) {
  absl::StatusOr<LayerRegistry::SnapshotPtr> found = registry.Get(name);
  if (!found.ok()) return found.status();
  const layer::LayerSnapshot& snapshot = **found;
  if (absl::Status status = CheckVersionPin(snapshot, version); !status.ok()) return status;
  absl::StatusOr<layer::NcsShape> ncs = layer::CheckShape(name, "x", x, snapshot.config->num_channels);
  if (!ncs.ok()) return ncs.status();
  if (!snapshot.config->track_running_stats) {
    return absl::FailedPreconditionError(absl::StrCat(
        layer::LayerPrefix(name), "keeps no running statistics, which a tensor in chunks is normalized with"));
  }
  return ChunkedInference{ChunkNormalizer(*ncs, x.dtype, *snapshot.config, snapshot.statistics->running_mean,
                                          snapshot.statistics->running_var, *snapshot.affine),
                          {.version = snapshot.version, .content_hash = snapshot.content_hash}};
}

absl::StatusOr<InferenceResult> Denormalize(const LayerRegistry& registry, absl::string_view name,
                                            const layer::TensorView& y, int64_t version, const CallControl& control,
                                            char* x) {
  absl::StatusOr<LayerRegistry::SnapshotPtr> found = registry.Get(name);
  if (!found.ok()) return found.status();
  const layer::LayerSnapshot& snapshot = **found;
  if (absl::Status status = CheckVersionPin(snapshot, version); !status.ok()) return status;
  absl::StatusOr<layer::NcsShape> ncs = layer::CheckTensor(name, "y", y, snapshot.config->num_channels);
  if (!ncs.ok()) return ncs.status();
  if (!snapshot.config->track_running_stats) {
    return absl::FailedPreconditionError(
        absl::StrCat(layer::LayerPrefix(name), "keeps no running statistics, which Denormalize needs"));
  }
  const Normalizer normalizer(*snapshot.config, snapshot.statistics->running_mean, snapshot.statistics->running_var);
  const kernels::ChannelParams params = normalizer.Params(snapshot.affine->gamma, snapshot.affine->beta);
  for (size_t c = 0; c < params.inv_std.size(); ++c) {
    const double gamma = params.gamma.empty() ? 1 : params.gamma[c];
    if (gamma * params.inv_std[c] != 0) continue;
    return absl::FailedPreconditionError(absl::StrCat(layer::LayerPrefix(name), "gamma[", c, "] * inv_std[", c,
                                                      "] is 0 (gamma ", gamma, ", running_var ",
                                                      snapshot.statistics->running_var[c], "), which has no inverse"));
  }
  if (absl::Status status = control.CheckAlive(); !status.ok()) return status;

  Denormalize(KernelInput(y, *ncs), params, control.threads, x);
  return InferenceResult{.version = snapshot.version, .content_hash = snapshot.content_hash};
}

}  // namespace normd::registry
