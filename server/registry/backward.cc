#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/registry/fingerprint.h"
#include "server/registry/layer_entry.h"
#include "server/registry/normalizer.h"
#include "server/registry/tensor_kernels.h"
#include "server/registry/training.h"
#include "server/registry/version_pin.h"

namespace normd::registry {
namespace {

using layer::LayerConfig;
using layer::LayerPrefix;
using layer::LayerSnapshot;
using layer::NonFinitePolicy;
using Mode = BackwardInput::Mode;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

absl::Status CheckLength(absl::string_view name, absl::string_view what, size_t got, int64_t want) {
  if (static_cast<int64_t>(got) == want) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(LayerPrefix(name), what, " has ", got, " entries, want ", want, " (num_channels)"));
}

// Whether the layer's settings let this mode be; looks at what Update may change.
absl::Status CheckMode(const LayerSnapshot& snapshot, Mode mode) {
  const LayerConfig& config = *snapshot.config;
  if (mode == Mode::kTraining && config.normalize_training_with != layer::TrainingStatistics::kBatch) {
    return absl::FailedPreconditionError(
        absl::StrCat(LayerPrefix(snapshot.name),
                     "normalizes training with its running statistics, want BATCH for the gradients of training mode; "
                     "use frozen mode"));
  }
  if (mode == Mode::kFrozen && !config.track_running_stats) {
    return absl::FailedPreconditionError(
        absl::StrCat(LayerPrefix(snapshot.name), "keeps no running statistics, which frozen mode needs"));
  }
  return absl::OkStatus();
}

absl::Status CheckBatchStatistics(const BackwardInput& input, int64_t num_channels) {
  if (input.mode == Mode::kFrozen) {
    if (input.batch_mean.empty() && input.batch_var.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(LayerPrefix(input.layer), "batch_mean and batch_var have ",
                                                   input.batch_mean.size(), " and ", input.batch_var.size(),
                                                   " entries, want none in frozen mode"));
  }
  absl::Status status = CheckLength(input.layer, "batch_mean", input.batch_mean.size(), num_channels);
  if (status.ok()) status = CheckLength(input.layer, "batch_var", input.batch_var.size(), num_channels);
  if (!status.ok()) return status;
  for (size_t c = 0; c < input.batch_var.size(); ++c) {
    if (!(input.batch_var[c] < 0)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(LayerPrefix(input.layer), "batch_var[", c, "] is ", input.batch_var[c], ", want >= 0 or NaN"));
  }
  if (input.version == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(LayerPrefix(input.layer), "version is ", input.version, ", want none in training mode"));
}

absl::StatusOr<layer::NcsShape> CheckInput(const LayerSnapshot& snapshot, const BackwardInput& input) {
  const LayerConfig& config = *snapshot.config;
  absl::StatusOr<layer::NcsShape> ncs = layer::CheckTensor(input.layer, "x", input.x, config.num_channels);
  if (!ncs.ok()) return ncs;
  if (input.dy.dtype != input.x.dtype || input.dy.layout != input.x.layout || input.dy.shape != input.x.shape) {
    const auto describe = [](const layer::TensorView& tensor) {
      return absl::StrCat(layer::DTypeName(tensor.dtype), " ", layer::ShapeToString(tensor.shape),
                          tensor.layout == layer::Layout::kChannelsFirst ? " channels first" : " channels last");
    };
    return absl::InvalidArgumentError(
        absl::StrCat(LayerPrefix(input.layer), "dy is ", describe(input.dy), ", want that of x: ", describe(input.x)));
  }
  if (absl::StatusOr<layer::NcsShape> dy = layer::CheckTensor(input.layer, "dy", input.dy, config.num_channels);
      !dy.ok()) {
    return dy;
  }
  absl::Status status = CheckBatchStatistics(input, config.num_channels);
  if (status.ok() && !input.gamma.empty()) {
    if (!config.affine) {
      return absl::InvalidArgumentError(absl::StrCat(LayerPrefix(input.layer), "gamma has ", input.gamma.size(),
                                                     " entries, want none: affine is false"));
    }
    status = CheckLength(input.layer, "gamma", input.gamma.size(), config.num_channels);
  }
  if (status.ok() && input.optimizer.has_value()) {
    status = layer::ForLayer(input.layer, ValidateOptimizer(*input.optimizer));
    if (status.ok() && !config.affine) {
      status = absl::FailedPreconditionError(
          absl::StrCat(LayerPrefix(input.layer), "has no gamma and beta for an optimizer to change: affine is false"));
    }
  }
  if (!status.ok()) return status;
  return ncs;
}

void AddStep(const SgdStep& step, Fingerprint* fingerprint) {
  fingerprint->AddBytes("sgd")
      .Add(step.learning_rate)
      .Add(step.momentum)
      .Add(step.dampening)
      .Add(step.nesterov)
      .Add(step.weight_decay);
}

void AddStep(const AdamStep& step, Fingerprint* fingerprint) {
  fingerprint->AddBytes("adam")
      .Add(step.learning_rate)
      .Add(step.beta1)
      .Add(step.beta2)
      .Add(step.eps)
      .Add(step.weight_decay)
      .Add(step.decoupled_weight_decay);
}

// Covers the tensors themselves and not the gradients, which in frozen mode move with the running statistics.
uint64_t RequestFingerprint(const BackwardInput& input) {
  if (input.request_id.empty() || !input.optimizer.has_value()) return 0;
  Fingerprint fingerprint("Backward");
  fingerprint.AddList<int64_t>(input.x.shape)
      .Add(input.x.dtype)
      .Add(input.x.layout)
      .AddList<char>(input.x.data)
      .AddList<char>(input.dy.data)
      .Add(input.mode)
      .AddList<double>(input.batch_mean)
      .AddList<double>(input.batch_var)
      .AddList<double>(input.gamma)
      .Add(input.version);
  std::visit([&](const auto& step) { AddStep(step, &fingerprint); }, *input.optimizer);
  return fingerprint.value();
}

// The same for gamma and beta: a step may not take them out of the finite numbers.
absl::Status CheckStaysFinite(const LayerSnapshot& snapshot, const layer::Affine& before, const layer::Affine& after) {
  if (snapshot.config->non_finite_policy == NonFinitePolicy::kPropagate) return absl::OkStatus();
  for (size_t c = 0; c < after.gamma.size(); ++c) {
    const bool was_finite = std::isfinite(before.gamma[c]) && std::isfinite(before.beta[c]);
    const bool is_finite = std::isfinite(after.gamma[c]) && std::isfinite(after.beta[c]);
    if (is_finite || !was_finite) continue;
    return absl::InvalidArgumentError(absl::StrCat(LayerPrefix(snapshot.name), "the optimizer's step would make gamma[",
                                                   c, "] ", after.gamma[c], " and beta[", c, "] ", after.beta[c],
                                                   ", want finite numbers (non_finite_policy is not PROPAGATE)"));
  }
  return absl::OkStatus();
}

// One Backward from its checked input to its result.
class Pass {
 public:
  Pass(const BackwardInput& input, const CallControl& control, const layer::NcsShape& ncs, LayerEntry* entry, char* dx)
      : input_(input),
        control_(control),
        num_channels_(static_cast<size_t>(ncs.num_channels)),
        entry_(entry),
        x_(input.x, ncs),
        dy_(input.dy, ncs),
        dx_(dx),
        fingerprint_(RequestFingerprint(input)) {}

  absl::StatusOr<BackwardResult> Run() {
    if (input_.version > entry_->Snapshot()->version) entry_->Refresh();
    while (true) {
      // A step is taken on the newest version only.
      absl::StatusOr<LayerEntry::SnapshotPtr> found =
          entry_->SnapshotAt(input_.optimizer.has_value() ? 0 : input_.version);
      if (!found.ok()) return found.status();
      const LayerEntry::SnapshotPtr snapshot = *std::move(found);
      absl::Status status = CheckMode(*snapshot, input_.mode);
      if (!status.ok()) return status;
      if (absl::Status moved = CheckVersionPin(*snapshot, input_.version); !moved.ok()) return ReplayPinned(moved);
      status = ComputeGradients(*snapshot);
      if (!status.ok()) return status;
      if (!input_.optimizer.has_value()) return Result(*snapshot);

      bool settings_changed = false;
      absl::StatusOr<LayerEntry::CommitResult> commit =
          entry_->Commit(input_.request_id, fingerprint_, [&](LayerSnapshot& next) -> absl::Status {
            settings_changed = next.config_version != snapshot->config_version;
            if (settings_changed) return absl::AbortedError("settings changed");
            // Of a pinned version only the statistics matter here.
            if (input_.version != 0 && next.statistics != snapshot->statistics) {
              return CheckVersionPin(next, input_.version);
            }
            return Change(&next);
          });
      if (settings_changed) {
        status = control_.CheckAlive();
        if (!status.ok()) return status;
        continue;
      }
      if (!commit.ok()) return commit.status();
      return OptimizedResult(*commit);
    }
  }

 private:
  // The layer is not at the version that the call names: an error, unless this very step has moved it on before.
  absl::StatusOr<BackwardResult> ReplayPinned(const absl::Status& moved) {
    if (input_.request_id.empty() || !input_.optimizer.has_value()) return moved;
    absl::StatusOr<LayerEntry::CommitResult> commit =
        entry_->Commit(input_.request_id, fingerprint_, [&](LayerSnapshot&) { return moved; });
    if (!commit.ok()) return commit.status();
    if (commit->snapshot->version != commit->outcome.version) {
      return absl::FailedPreconditionError(absl::StrCat(
          LayerPrefix(input_.layer), "this step was applied before and made version ", commit->outcome.version,
          ", but the layer is at version ", commit->snapshot->version, " now and cannot give its gradients again"));
    }
    if (absl::Status status = ComputeGradients(*commit->snapshot); !status.ok()) return status;
    return OptimizedResult(*commit);
  }

  // Fills in the gradients, dx and marked_.
  absl::Status ComputeGradients(const LayerSnapshot& snapshot) {
    const bool frozen = input_.mode == Mode::kFrozen;
    std::vector<double> mean = frozen ? snapshot.statistics->running_mean : input_.batch_mean;
    const absl::Span<const double> var = frozen ? snapshot.statistics->running_var : input_.batch_var;
    marked_.assign(num_channels_, false);
    if (!frozen) {
      for (size_t c = 0; c < num_channels_; ++c) {
        if (std::isnan(mean[c]) || std::isnan(var[c])) Mark(c, &mean);
      }
    }
    dgamma_.assign(num_channels_, 0);
    dbeta_.assign(num_channels_, 0);
    RunKernel(snapshot, mean, var);

    const NonFinitePolicy policy = snapshot.config->non_finite_policy;
    if (policy == NonFinitePolicy::kPropagate) return absl::OkStatus();
    std::vector<size_t> bad;
    for (size_t c = 0; c < num_channels_; ++c) {
      if (!std::isfinite(dgamma_[c]) || !std::isfinite(dbeta_[c])) bad.push_back(c);
    }
    if (bad.empty()) return absl::OkStatus();
    if (policy == NonFinitePolicy::kReject) {
      return absl::InvalidArgumentError(
          absl::StrCat(LayerPrefix(input_.layer), "x or dy holds NaN or infinity in channel ", bad.front(), " (",
                       bad.size(), " such channels; dgamma ", dgamma_[bad.front()], ", dbeta ", dbeta_[bad.front()],
                       "), want finite values (non_finite_policy is REJECT)"));
    }
    // Rare, so once more without them rather than a second way to write dx.
    for (const size_t c : bad) Mark(c, &mean);
    RunKernel(snapshot, mean, var);
    return absl::OkStatus();
  }

  // To the kernel a channel whose mean is NaN has no gradient.
  void Mark(size_t c, std::vector<double>* mean) {
    (*mean)[c] = kNaN;
    marked_[c] = true;
  }

  void RunKernel(const LayerSnapshot& snapshot, absl::Span<const double> mean, absl::Span<const double> var) {
    const Normalizer normalizer(*snapshot.config, mean, var);
    const absl::Span<const double> gamma = input_.gamma.empty() ? snapshot.affine->gamma : input_.gamma;
    registry::Backward(x_, dy_, normalizer.Params(gamma, snapshot.affine->beta),
                       input_.mode == Mode::kFrozen ? kernels::GradientMode::kConstant : kernels::GradientMode::kBatch,
                       control_.threads, absl::MakeSpan(dgamma_), absl::MakeSpan(dbeta_), dx_);
  }

  // The optimizer's step on the newest gamma and beta.
  absl::Status Change(LayerSnapshot* next) const {
    std::vector<double> dgamma = dgamma_;
    std::vector<double> dbeta = dbeta_;
    bool skip = next->config->non_finite_policy == NonFinitePolicy::kSkipChannel;
    for (size_t c = 0; c < num_channels_; ++c) {
      if (!marked_[c]) continue;
      // A gradient of 0 would still decay the weights and the buffers.
      dgamma[c] = dbeta[c] = kNaN;
      skip = true;
    }
    auto optimizer = std::make_shared<layer::OptimizerState>(*next->optimizer);
    auto affine = std::make_shared<layer::Affine>(*next->affine);
    ApplyOptimizer(*input_.optimizer, dgamma, dbeta, skip, optimizer.get(), affine.get());
    if (absl::Status status = CheckStaysFinite(*next, *next->affine, *affine); !status.ok()) return status;
    next->optimizer = std::move(optimizer);
    next->affine = std::move(affine);
    return control_.CheckAlive();
  }

  // Called last: gives the gradients away.
  BackwardResult Result(const LayerSnapshot& snapshot) {
    BackwardResult result;
    if (snapshot.config->affine) {
      result.dgamma = std::move(dgamma_);
      result.dbeta = std::move(dbeta_);
    }
    result.version = snapshot.version;
    result.content_hash = snapshot.content_hash;
    return result;
  }

  BackwardResult OptimizedResult(const LayerEntry::CommitResult& commit) {
    BackwardResult result = Result(*commit.snapshot);
    result.gamma = commit.snapshot->affine->gamma;
    result.beta = commit.snapshot->affine->beta;
    result.version = commit.outcome.version;
    result.content_hash = commit.outcome.content_hash;
    result.replayed = commit.replayed;
    result.stored = commit.stored;
    return result;
  }

  const BackwardInput& input_;
  const CallControl& control_;
  const size_t num_channels_;
  LayerEntry* const entry_;
  const KernelInput x_;
  const KernelInput dy_;
  char* const dx_;
  const uint64_t fingerprint_;
  std::vector<double> dgamma_;
  std::vector<double> dbeta_;
  // Channels without a gradient.
  std::vector<bool> marked_;
};

}  // namespace

absl::StatusOr<BackwardResult> Backward(const LayerRegistry& registry, const BackwardInput& input,
                                        const CallControl& control, char* dx) {
  if (absl::Status status = layer::ValidateRequestId(input.request_id); !status.ok()) {
    return layer::ForLayer(input.layer, status);
  }
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = registry.Find(input.layer);
  if (!entry.ok()) return entry.status();
  absl::StatusOr<layer::NcsShape> ncs = CheckInput(*(*entry)->Snapshot(), input);
  if (!ncs.ok()) return ncs.status();
  if (absl::Status status = control.CheckAlive(); !status.ok()) return status;
  return Pass(input, control, *ncs, entry->get(), dx).Run();
}

}  // namespace normd::registry
