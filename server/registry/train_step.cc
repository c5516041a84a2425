#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/registry/activity.h"
#include "server/registry/fingerprint.h"
#include "server/registry/fold.h"
#include "server/registry/layer_entry.h"
#include "server/registry/normalizer.h"
#include "server/registry/tensor_kernels.h"
#include "server/registry/training.h"

namespace normd::registry {
namespace {

using layer::LayerConfig;
using layer::LayerSnapshot;
using layer::NonFinitePolicy;
using layer::Statistics;
using layer::TrainingStatistics;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

absl::StatusOr<layer::NcsShape> CheckBatch(const LayerSnapshot& snapshot, const layer::TensorView& x) {
  const LayerConfig& config = *snapshot.config;
  absl::StatusOr<layer::NcsShape> ncs = layer::CheckShape(snapshot.name, "x", x, config.num_channels);
  if (!ncs.ok()) return ncs;
  if (config.running_var_estimator == layer::VarianceEstimator::kSample && ncs->outer * ncs->inner == 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(layer::LayerPrefix(snapshot.name),
                     "one value per channel, want at least 2: the sample variance divides by n - 1"));
  }
  return ncs;
}

// The gamma and beta that come with the step, or null.
absl::StatusOr<std::shared_ptr<const layer::Affine>> GivenAffine(const LayerSnapshot& snapshot,
                                                                 const TrainStepInput& input) {
  layer::StateUpdate update;
  update.gamma = input.gamma;
  update.beta = input.beta;
  absl::Status status = layer::ValidateStateUpdate(*snapshot.config, update);
  if (!status.ok()) return layer::ForLayer(snapshot.name, status);
  if (!update.SetsAffine()) return nullptr;
  return std::make_shared<const layer::Affine>(
      layer::Affine{.gamma = std::move(update.gamma), .beta = std::move(update.beta)});
}

// One TrainStep from its checked input to its result. The batch statistics are computed once, or known; should the
// settings change under the call, what depends on them is done again.
class Step {
 public:
  // `known`: the statistics of a batch that is not here, in which case `y` is null.
  Step(const TrainStepInput& input, const CallControl& control, const layer::NcsShape& ncs,
       std::shared_ptr<const layer::Affine> given_affine, LayerEntry* entry, char* y,
       const kernels::MomentsAccumulator* known = nullptr)
      : input_(input),
        control_(control),
        given_affine_(std::move(given_affine)),
        entry_(entry),
        ncs_(ncs),
        x_(input.x, ncs),
        y_(y),
        known_(known),
        batch_mean_(static_cast<size_t>(ncs.num_channels)),
        batch_var_(static_cast<size_t>(ncs.num_channels)) {}

  // What made y, once Run was OK.
  ChunkNormalizer TakeNormalizer() { return *std::move(chunk_normalizer_); }

  absl::StatusOr<TrainStepResult> Run() {
    LayerEntry::SnapshotPtr snapshot = entry_->Snapshot();
    if (known_ != nullptr) {
      known_->Statistics(absl::MakeSpan(batch_mean_), absl::MakeSpan(batch_var_));
    } else {
      ComputeBatch(*snapshot);
    }
    for (;; snapshot = entry_->Snapshot()) {
      if (absl::Status status = FindSkippedChannels(*snapshot); !status.ok()) {
        entry_->activity().OnRejected();
        return status;
      }
      if (input_.skip_update) return Preview(*snapshot);

      const Source source = SourceBefore(*snapshot);
      if (NormalizesWithBatch(source)) WriteOutput(source);

      bool settings_changed = false;
      std::shared_ptr<const Statistics> replaced;
      absl::StatusOr<LayerEntry::CommitResult> commit =
          entry_->Commit(input_.request_id, RequestFingerprint(), [&](LayerSnapshot& next) -> absl::Status {
            settings_changed = next.config_version != snapshot->config_version;
            if (settings_changed) return absl::AbortedError("settings changed");
            replaced = next.statistics;
            return Change(&next);
          });
      if (settings_changed) {
        if (absl::Status status = control_.CheckAlive(); !status.ok()) return status;
        continue;
      }
      if (!commit.ok()) return commit.status();

      const LayerSnapshot& newest = *commit->snapshot;
      if (!commit->replayed && newest.config->track_running_stats) {
        entry_->activity().OnFold();
        entry_->activity().OnDrift(MeasureDrift(*newest.config, *replaced, Moments()));
      }
      // A replay no longer knows what the first application replaced.
      WriteOutput(SourceOf(newest, replaced == nullptr ? newest.statistics : replaced));
      TrainStepResult result = BatchResult();
      result.version = commit->outcome.version;
      result.content_hash = std::move(commit->outcome.content_hash);
      result.num_batches_tracked = commit->outcome.num_batches_tracked;
      result.replayed = commit->replayed;
      result.stored = std::move(commit->stored);
      return result;
    }
  }

 private:
  // All that y depends on besides x.
  struct Source {
    std::shared_ptr<const LayerConfig> config;
    std::shared_ptr<const layer::Affine> affine;
    // Normalizes every channel (running statistics) or the skipped ones (batch statistics).
    std::shared_ptr<const Statistics> statistics;
  };

  static Source SourceOf(const LayerSnapshot& snapshot, const std::shared_ptr<const Statistics>& before) {
    const bool after = snapshot.config->normalize_training_with == TrainingStatistics::kRunningAfterUpdate;
    return {snapshot.config, snapshot.affine, after ? snapshot.statistics : before};
  }

  // What y would be made from if nobody changed the layer before the commit.
  Source SourceBefore(const LayerSnapshot& snapshot) const {
    Source source = SourceOf(snapshot, snapshot.statistics);
    if (given_affine_ != nullptr) source.affine = given_affine_;
    return source;
  }

  static bool NormalizesWithBatch(const Source& source) {
    return source.config->normalize_training_with == TrainingStatistics::kBatch;
  }

  // Whether both give the same y.
  bool SameOutput(const Source& a, const Source& b) const {
    return a.config == b.config && (a.affine == b.affine || *a.affine == *b.affine) &&
           ((NormalizesWithBatch(a) && skipped_.empty()) || a.statistics == b.statistics);
  }

  // The batch statistics and, where y needs nothing else, y: both at once read x once.
  void ComputeBatch(const LayerSnapshot& snapshot) {
    const Source source = SourceBefore(snapshot);
    if (y_ == nullptr || !NormalizesWithBatch(source)) {
      BatchStatistics(x_, control_.threads, absl::MakeSpan(batch_mean_), absl::MakeSpan(batch_var_));
      return;
    }
    const LayerConfig& config = *source.config;
    NormalizeBatch(x_,
                   {.eps = config.eps,
                    .gamma = source.affine->gamma,
                    .beta = source.affine->beta,
                    .clip = config.clip.value_or(std::numeric_limits<double>::infinity())},
                   control_.threads, absl::MakeSpan(batch_mean_), absl::MakeSpan(batch_var_), y_);
    written_ = source;
  }

  absl::Status FindSkippedChannels(const LayerSnapshot& snapshot) {
    skipped_.clear();
    const NonFinitePolicy policy = snapshot.config->non_finite_policy;
    if (policy == NonFinitePolicy::kPropagate) return absl::OkStatus();
    for (size_t c = 0; c < batch_mean_.size(); ++c) {
      if (!std::isfinite(batch_mean_[c]) || !std::isfinite(batch_var_[c])) skipped_.push_back(static_cast<int64_t>(c));
    }
    // Their y comes from other statistics.
    if (!skipped_.empty()) written_.reset();
    if (skipped_.empty() || policy == NonFinitePolicy::kSkipChannel) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        layer::LayerPrefix(snapshot.name), "x holds NaN, infinity or values whose variance overflows in channel ",
        skipped_.front(), " (", skipped_.size(), " such channels), want finite values (non_finite_policy is REJECT)"));
  }

  uint64_t RequestFingerprint() const {
    if (input_.request_id.empty()) return 0;
    Fingerprint fingerprint("TrainStep");
    fingerprint.AddList<int64_t>(input_.x.shape)
        .Add(input_.x.dtype)
        .Add(input_.x.layout)
        .AddList<double>(batch_mean_)
        .AddList<double>(batch_var_)
        .AddList<double>(input_.gamma)
        .AddList<double>(input_.beta);
    return fingerprint.value();
  }

  BatchMoments Moments() const {
    return {.count = x_.ValuesPerChannel(), .mean = batch_mean_, .var = batch_var_, .skipped_channels = skipped_};
  }

  // What the step does to the newest version of the layer.
  absl::Status Change(LayerSnapshot* next) const {
    if (next->config->track_running_stats) {
      auto folded = std::make_shared<Statistics>(Fold(*next->config, *next->statistics, Moments()));
      absl::Status status = CheckStaysFinite(*next->config, "folding x in", *next->statistics, *folded);
      if (!status.ok()) return layer::ForLayer(next->name, status);
      next->statistics = std::move(folded);
    }
    if (given_affine_ != nullptr && *given_affine_ != *next->affine) next->affine = given_affine_;
    return control_.CheckAlive();
  }

  // The step without its commit.
  TrainStepResult Preview(const LayerSnapshot& snapshot) {
    Source source = SourceBefore(snapshot);
    if (source.config->normalize_training_with == TrainingStatistics::kRunningAfterUpdate) {
      source.statistics = std::make_shared<Statistics>(Fold(*source.config, *source.statistics, Moments()));
    }
    WriteOutput(source);
    TrainStepResult result = BatchResult();
    result.version = snapshot.version;
    result.content_hash = snapshot.content_hash;
    result.num_batches_tracked = snapshot.statistics->num_batches_tracked;
    return result;
  }

  // Makes y what `source` gives, unless it is that already.
  void WriteOutput(const Source& source) {
    const bool wanted = y_ != nullptr || known_ != nullptr;
    if (!wanted || (written_.has_value() && SameOutput(*written_, source))) return;
    written_ = source;
    if (!NormalizesWithBatch(source)) {
      Write(source, source.statistics->running_mean, source.statistics->running_var);
    } else if (skipped_.empty()) {
      Write(source, batch_mean_, batch_var_);
    } else {
      std::vector<double> mean = batch_mean_;
      std::vector<double> var = batch_var_;
      for (const int64_t channel : skipped_) {
        const auto c = static_cast<size_t>(channel);
        const bool tracked = source.config->track_running_stats;
        mean[c] = tracked ? source.statistics->running_mean[c] : 0;
        var[c] = tracked ? source.statistics->running_var[c] : 1;
      }
      Write(source, mean, var);
    }
  }

  void Write(const Source& source, absl::Span<const double> mean, absl::Span<const double> var) {
    if (known_ != nullptr) {
      chunk_normalizer_.emplace(ncs_, input_.x.dtype, *source.config, mean, var, *source.affine);
      return;
    }
    const Normalizer normalizer(*source.config, mean, var);
    Normalize(x_, normalizer.Params(source.affine->gamma, source.affine->beta), control_.threads, y_);
  }

  // Called last: gives the batch statistics away.
  TrainStepResult BatchResult() {
    for (const int64_t channel : skipped_) {
      batch_mean_[static_cast<size_t>(channel)] = kNaN;
      batch_var_[static_cast<size_t>(channel)] = kNaN;
    }
    TrainStepResult result;
    result.batch_mean = std::move(batch_mean_);
    result.batch_var = std::move(batch_var_);
    result.skipped_channels = std::move(skipped_);
    return result;
  }

  const TrainStepInput& input_;
  const CallControl& control_;
  const std::shared_ptr<const layer::Affine> given_affine_;
  LayerEntry* const entry_;
  const layer::NcsShape ncs_;
  const KernelInput x_;
  char* const y_;
  const kernels::MomentsAccumulator* const known_;
  std::vector<double> batch_mean_;
  std::vector<double> batch_var_;
  std::vector<int64_t> skipped_;
  // What y holds.
  std::optional<Source> written_;
  // Of a batch that is not here.
  std::optional<ChunkNormalizer> chunk_normalizer_;
};

// What TrainStep checks before it looks at values. None of it changes after Create.
struct CheckedStep {
  std::shared_ptr<LayerEntry> entry;
  layer::NcsShape ncs;
  std::shared_ptr<const layer::Affine> given_affine;
};

absl::StatusOr<CheckedStep> CheckStep(const LayerRegistry& registry, const TrainStepInput& input) {
  if (absl::Status status = layer::ValidateRequestId(input.request_id); !status.ok()) {
    return layer::ForLayer(input.layer, status);
  }
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = registry.Find(input.layer);
  if (!entry.ok()) return entry.status();
  const LayerEntry::SnapshotPtr snapshot = (*entry)->Snapshot();
  absl::StatusOr<layer::NcsShape> ncs = CheckBatch(*snapshot, input.x);
  if (!ncs.ok()) return ncs.status();
  absl::StatusOr<std::shared_ptr<const layer::Affine>> affine = GivenAffine(*snapshot, input);
  if (!affine.ok()) return affine.status();
  return CheckedStep{*std::move(entry), *ncs, *std::move(affine)};
}

}  // namespace

absl::StatusOr<TrainStepResult> TrainStep(const LayerRegistry& registry, const TrainStepInput& input,
                                          const CallControl& control, char* y) {
  absl::StatusOr<CheckedStep> checked = CheckStep(registry, input);
  if (!checked.ok()) return checked.status();
  absl::StatusOr<layer::NcsShape> ncs = layer::CheckTensor(input.layer, "x", input.x, checked->ncs.num_channels);
  if (!ncs.ok()) return ncs.status();
  if (absl::Status status = control.CheckAlive(); !status.ok()) return status;
  return Step(input, control, *ncs, std::move(checked->given_affine), checked->entry.get(), y).Run();
}

BatchAccumulator::BatchAccumulator(const layer::NcsShape& ncs, layer::DType dtype)
    : ncs_(ncs), dtype_(dtype), moments_(ncs.num_channels, ncs.inner) {}

absl::StatusOr<BatchAccumulator> BatchAccumulator::Create(const LayerRegistry& registry, const TrainStepInput& input) {
  absl::StatusOr<CheckedStep> checked = CheckStep(registry, input);
  if (!checked.ok()) return checked.status();
  return BatchAccumulator(checked->ncs, input.x.dtype);
}

void BatchAccumulator::Add(absl::Span<const char> rows, int threads) {
  layer::TensorView view;
  view.dtype = dtype_;
  view.data = rows;
  layer::NcsShape piece = ncs_;
  piece.outer = static_cast<int64_t>(rows.size()) / row_bytes();
  AddMoments(KernelInput(view, piece), threads, &moments_);
  added_bytes_ += static_cast<int64_t>(rows.size());
}

absl::StatusOr<BatchAccumulator::Result> BatchAccumulator::Commit(const LayerRegistry& registry,
                                                                  const TrainStepInput& input,
                                                                  const CallControl& control) const {
  // Again: the layer may have been replaced by another one of its name.
  absl::StatusOr<CheckedStep> checked = CheckStep(registry, input);
  if (!checked.ok()) return checked.status();
  if (absl::Status status = control.CheckAlive(); !status.ok()) return status;
  Step step(input, control, ncs_, std::move(checked->given_affine), checked->entry.get(), nullptr, &moments_);
  absl::StatusOr<TrainStepResult> result = step.Run();
  if (!result.ok()) return result.status();
  return Result{*std::move(result), step.TakeNormalizer()};
}

}  // namespace normd::registry
