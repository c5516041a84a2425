#include "server/registry/inference.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/kernels/parallel.h"
#include "server/layer/layer_error.h"
#include "server/registry/normalizer.h"
#include "server/registry/tensor_kernels.h"

namespace normd::registry {

namespace {

// Small enough to be in the L2 cache when it is read again, large enough for the kernels.
constexpr int64_t kBlockBytes = 128 << 10;

// Gathers the tensor in blocks and normalizes each.
class GatherAndNormalize {
 public:
  GatherAndNormalize(const ChunkNormalizer& normalizer, GatherFunction gather, absl::Span<char> y)
      : normalizer_(normalizer), gather_(gather), y_(y) {}

  // A member of the team.
  void operator()(int rank, int size) const {
    const int64_t block = kBlockBytes / normalizer_.element_bytes();
    const auto elements = static_cast<int64_t>(y_.size()) / normalizer_.element_bytes();
    const kernels::Part part((elements + block - 1) / block, rank, size);
    for (int64_t position = part.begin * block; position < std::min(elements, part.end * block); position += block) {
      const int64_t begin = position * normalizer_.element_bytes();
      const absl::Span<char> piece = y_.subspan(static_cast<size_t>(begin), static_cast<size_t>(kBlockBytes));
      gather_(begin, piece);
      normalizer_.At(position, piece, 1);
    }
  }

 private:
  const ChunkNormalizer& normalizer_;
  const GatherFunction gather_;
  const absl::Span<char> y_;
};

absl::StatusOr<InferenceResult> InferSnapshot(const layer::LayerSnapshot& snapshot, const layer::TensorView& x,
                                              const CallControl& control, const GatherFunction* gather, char* y) {
  absl::StatusOr<layer::NcsShape> ncs = layer::CheckTensor(snapshot.name, "x", x, snapshot.config->num_channels);
  if (!ncs.ok()) return ncs.status();
  if (absl::Status status = control.CheckAlive(); !status.ok()) return status;
  const InferenceResult result{.version = snapshot.version, .content_hash = snapshot.content_hash};

  absl::Span<const double> mean = snapshot.statistics->running_mean;
  absl::Span<const double> var = snapshot.statistics->running_var;
  if (gather != nullptr) {
    const absl::Span<char> out(y, x.data.size());
    if (snapshot.config->track_running_stats && static_cast<int64_t>(out.size()) > 2 * kBlockBytes) {
      const ChunkNormalizer normalizer(*ncs, x.dtype, *snapshot.config, mean, var, *snapshot.affine);
      GatherAndNormalize team(normalizer, *gather, out);
      kernels::RunTeam(control.threads, &team);
      return result;
    }
    (*gather)(0, out);
  }
  const KernelInput input(x, *ncs);
  std::vector<double> own_mean;
  std::vector<double> own_var;
  if (!snapshot.config->track_running_stats) {
    own_mean.resize(static_cast<size_t>(ncs->num_channels));
    own_var.resize(static_cast<size_t>(ncs->num_channels));
    BatchStatistics(input, control.threads, absl::MakeSpan(own_mean), absl::MakeSpan(own_var));
    mean = own_mean;
    var = own_var;
  }
  const Normalizer normalizer(*snapshot.config, mean, var);
  Normalize(input, normalizer.Params(snapshot.affine->gamma, snapshot.affine->beta), control.threads, y);
  return result;
}

}  // namespace

absl::StatusOr<InferenceResult> Infer(const LayerRegistry& registry, absl::string_view name, const layer::TensorView& x,
                                      int64_t version, const CallControl& control, char* y) {
  absl::StatusOr<LayerRegistry::SnapshotPtr> found = registry.Get(name, version);
  if (!found.ok()) return found.status();
  return InferSnapshot(**found, x, control, nullptr, y);
}

absl::StatusOr<InferenceResult> InferGathered(const LayerRegistry& registry, absl::string_view name,
                                              const layer::TensorView& x, int64_t version, const CallControl& control,
                                              GatherFunction gather, char* y) {
  absl::StatusOr<LayerRegistry::SnapshotPtr> found = registry.Get(name, version);
  if (!found.ok()) return found.status();
  return InferSnapshot(**found, x, control, &gather, y);
}

absl::StatusOr<ChunkedInference> InferInChunks(const LayerRegistry& registry, absl::string_view name,
                                               const layer::TensorView& x, int64_t version) {
  absl::StatusOr<LayerRegistry::SnapshotPtr> found = registry.Get(name, version);
  if (!found.ok()) return found.status();
  const layer::LayerSnapshot& snapshot = **found;
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
  absl::StatusOr<LayerRegistry::SnapshotPtr> found = registry.Get(name, version);
  if (!found.ok()) return found.status();
  const layer::LayerSnapshot& snapshot = **found;
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
