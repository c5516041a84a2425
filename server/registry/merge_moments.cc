#include "server/registry/merge_moments.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "server/layer/contributors.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/registry/activity.h"
#include "server/registry/fingerprint.h"
#include "server/registry/fold.h"
#include "server/registry/layer_entry.h"

namespace normd::registry {
namespace {

using layer::LayerConfig;
using layer::LayerSnapshot;
using layer::NonFinitePolicy;
using layer::Statistics;

// Whole numbers up to here are exact in float64.
constexpr int64_t kMaxCount = int64_t{1} << 53;
// How far rounding may take a mean out of [min, max], relative to the larger of them: generous to float32.
constexpr double kMeanRounding = 1e-6;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

int64_t CountOf(const Moments& moments, size_t c) {
  return moments.count.size() == 1 ? moments.count.front() : moments.count[c];
}

template <typename T>
absl::Status CheckLength(absl::string_view field, const std::vector<T>& values, int64_t num_channels, bool optional) {
  if (static_cast<int64_t>(values.size()) == num_channels || (optional && values.empty())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("moments.", field, " has ", values.size(), " entries, want ",
                                                 num_channels, " (num_channels)", optional ? " or none" : ""));
}

absl::Status CheckLengths(const Moments& moments, int64_t num_channels) {
  if (moments.count.size() != 1 && static_cast<int64_t>(moments.count.size()) != num_channels) {
    return absl::InvalidArgumentError(absl::StrCat("moments.count has ", moments.count.size(), " entries, want 1 or ",
                                                   num_channels, " (num_channels)"));
  }
  absl::Status status = CheckLength("mean", moments.mean, num_channels, false);
  if (status.ok()) status = CheckLength("m2", moments.m2, num_channels, false);
  if (status.ok()) status = CheckLength("min", moments.min, num_channels, true);
  if (status.ok()) status = CheckLength("max", moments.max, num_channels, true);
  if (status.ok()) status = CheckLength("non_finite_count", moments.non_finite_count, num_channels, true);
  return status;
}

absl::Status OutOfRange(absl::string_view field, size_t c, double got, absl::string_view want) {
  return absl::InvalidArgumentError(absl::StrCat("moments.", field, "[", c, "] is ", got, ", want ", want));
}

absl::Status CheckRange(const Moments& moments, size_t c) {
  const double mean = moments.mean[c];
  const double m2 = moments.m2[c];
  if (!std::isfinite(mean)) return OutOfRange("mean", c, mean, "a finite number");
  if (!std::isfinite(m2) || m2 < 0) return OutOfRange("m2", c, m2, "a finite number >= 0");
  const double min = moments.min.empty() ? mean : moments.min[c];
  const double max = moments.max.empty() ? mean : moments.max[c];
  if (!std::isfinite(min)) return OutOfRange("min", c, min, "a finite number");
  if (!std::isfinite(max)) return OutOfRange("max", c, max, "a finite number");
  const double slack = kMeanRounding * std::max(std::abs(min), std::abs(max));
  if (mean < min - slack) return OutOfRange("min", c, min, absl::StrCat("at most the mean, ", mean));
  if (mean > max + slack) return OutOfRange("max", c, max, absl::StrCat("at least the mean, ", mean));
  return absl::OkStatus();
}

// REQUIRES CheckLengths. What it looks at of the config never changes after Create.
absl::Status CheckValues(const LayerConfig& config, const Moments& moments) {
  const bool needs_two = config.running_var_estimator == layer::VarianceEstimator::kSample &&
                         config.averaging != layer::Averaging::kPooled;
  bool any = false;
  for (size_t c = 0; c < moments.mean.size(); ++c) {
    if (!moments.non_finite_count.empty() && moments.non_finite_count[c] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("moments.non_finite_count[", c, "] is ", moments.non_finite_count[c], ", want 0 or more"));
    }
    const int64_t count = CountOf(moments, c);
    if (count < 0 || count > kMaxCount) {
      return absl::InvalidArgumentError(
          absl::StrCat("moments.count is ", count, " for channel ", c, ", want 0 to ", kMaxCount));
    }
    if (count == 0) continue;
    any = true;
    if (needs_two && count == 1) {
      return absl::InvalidArgumentError(absl::StrCat("moments.count is 1 for channel ", c,
                                                     ", want at least 2: the sample variance divides by n - 1"));
    }
    if (absl::Status status = CheckRange(moments, c); !status.ok()) return status;
  }
  if (any) return absl::OkStatus();
  return absl::InvalidArgumentError("moments.count is 0 for every channel, want at least one value");
}

uint64_t RequestFingerprint(const MergeMomentsInput& input) {
  if (input.request_id.empty()) return 0;
  const Moments& moments = input.moments;
  return Fingerprint("MergeMoments")
      .AddList<int64_t>(moments.count)
      .AddList<double>(moments.mean)
      .AddList<double>(moments.m2)
      .AddList<double>(moments.min)
      .AddList<double>(moments.max)
      .AddList<int64_t>(moments.non_finite_count)
      .AddBytes(input.contributor)
      .Add(input.sequence)
      .value();
}

// The moments in the form that Fold takes, under the policy that the layer has now.
struct Batch {
  std::vector<int64_t> counts;
  std::vector<double> mean;
  std::vector<double> var;
  std::vector<int64_t> skipped_channels;
};

// Sets `*rejected` if the policy is what refuses them.
absl::StatusOr<Batch> ToBatch(const LayerConfig& config, const Moments& moments, bool* rejected) {
  Batch batch{.counts = {}, .mean = moments.mean, .var = moments.m2, .skipped_channels = {}};
  batch.counts.reserve(moments.mean.size());
  for (size_t c = 0; c < moments.mean.size(); ++c) {
    int64_t count = CountOf(moments, c);
    batch.var[c] /= static_cast<double>(count);
    const int64_t non_finite = moments.non_finite_count.empty() ? 0 : moments.non_finite_count[c];
    if (non_finite > 0) {
      if (config.non_finite_policy == NonFinitePolicy::kReject) {
        *rejected = true;
        return absl::InvalidArgumentError(absl::StrCat("moments.non_finite_count[", c, "] is ", non_finite,
                                                       ", want finite values only (non_finite_policy is REJECT)"));
      }
      const bool skip = config.non_finite_policy == NonFinitePolicy::kSkipChannel;
      count = skip ? 0 : count + non_finite;
      batch.mean[c] = batch.var[c] = kNaN;
    }
    if (count == 0) batch.skipped_channels.push_back(static_cast<int64_t>(c));
    batch.counts.push_back(count);
  }
  return batch;
}

absl::Status Change(const MergeMomentsInput& input, LayerSnapshot* next, bool* rejected) {
  absl::StatusOr<Batch> batch = ToBatch(*next->config, input.moments, rejected);
  if (!batch.ok()) return batch.status();
  auto folded = std::make_shared<Statistics>(Fold(*next->config, *next->statistics,
                                                  {.channel_counts = batch->counts,
                                                   .mean = batch->mean,
                                                   .var = batch->var,
                                                   .skipped_channels = batch->skipped_channels}));
  absl::Status status = CheckStaysFinite(*next->config, "merging the moments", *next->statistics, *folded);
  if (!status.ok()) return status;
  if (!input.contributor.empty()) {
    absl::StatusOr<layer::Contributors> contributors = next->contributors->With(input.contributor, input.sequence);
    if (!contributors.ok()) return contributors.status();
    next->contributors = std::make_shared<const layer::Contributors>(*std::move(contributors));
  }
  next->statistics = std::move(folded);
  return absl::OkStatus();
}

absl::Status CheckInput(const LayerConfig& config, const MergeMomentsInput& input) {
  if (!config.track_running_stats) {
    return absl::FailedPreconditionError("has no running statistics to merge into: track_running_stats is false");
  }
  absl::Status status = CheckLengths(input.moments, config.num_channels);
  if (status.ok()) status = CheckValues(config, input.moments);
  return status;
}

}  // namespace

absl::StatusOr<MergeMomentsResult> MergeMoments(const LayerRegistry& registry, const MergeMomentsInput& input,
                                                const CallControl& control) {
  absl::Status status = layer::ValidateRequestId(input.request_id);
  if (status.ok()) status = layer::ValidateContribution(input.contributor, input.sequence);
  if (!status.ok()) return layer::ForLayer(input.layer, status);
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = registry.Find(input.layer);
  if (!entry.ok()) return entry.status();
  status = CheckInput(*(*entry)->Snapshot()->config, input);
  if (!status.ok()) return layer::ForLayer(input.layer, status);

  bool repeated = false;
  bool rejected = false;
  absl::StatusOr<LayerEntry::CommitResult> commit =
      (*entry)->Commit(input.request_id, RequestFingerprint(input), [&](LayerSnapshot& next) -> absl::Status {
        rejected = false;
        repeated = !input.contributor.empty() && input.sequence <= next.contributors->LastSequence(input.contributor);
        if (repeated) return absl::OkStatus();
        if (absl::Status changed = Change(input, &next, &rejected); !changed.ok())
          return layer::ForLayer(input.layer, changed);
        return control.CheckAlive();
      });
  LayerActivity& activity = (*entry)->activity();
  if (rejected) activity.OnRejected();
  if (!commit.ok()) return commit.status();
  // A known request_id was counted by the entry.
  if (repeated) activity.OnReplay();
  if (!repeated && !commit->replayed) activity.OnFold();
  return MergeMomentsResult{.snapshot = std::move(commit->snapshot),
                            .replayed = commit->replayed || repeated,
                            .stored = std::move(commit->stored)};
}

}  // namespace normd::registry
