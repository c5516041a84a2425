#include "server/layer/layer_state.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace normd::layer {
namespace {

enum class Range { kFinite, kFiniteNotNegative };

absl::Status CheckList(absl::string_view field, absl::Span<const double> values, int64_t num_channels, Range range) {
  if (static_cast<int64_t>(values.size()) != num_channels) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has ", values.size(), " entries, want ", num_channels, " (num_channels)"));
  }
  for (size_t c = 0; c < values.size(); ++c) {
    if (std::isfinite(values[c]) && (range == Range::kFinite || values[c] >= 0)) continue;
    return absl::InvalidArgumentError(absl::StrCat(field, "[", c, "] is ", values[c], ", want a finite number",
                                                   range == Range::kFinite ? "" : " >= 0"));
  }
  return absl::OkStatus();
}

absl::Status CheckPair(absl::string_view first, bool has_first, absl::string_view second, bool has_second) {
  if (has_first == has_second) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(has_first ? first : second, " is given without ",
                                                 has_first ? second : first, ", want both or none"));
}

absl::Status CheckStatistics(const LayerConfig& config, const StateUpdate& update) {
  if (!update.SetsStatistics()) {
    // Counts alone would change what the statistics mean.
    const absl::string_view alone = !update.sample_count.empty()      ? "sample_count"
                                    : !update.skipped_batches.empty() ? "skipped_batches"
                                    : update.num_batches_tracked != 0 ? "num_batches_tracked"
                                                                      : "";
    if (alone.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(alone, " is given without running_mean and running_var, want them together"));
  }
  if (!config.track_running_stats) {
    return absl::InvalidArgumentError(
        "running_mean and running_var are given, want none: track_running_stats is false");
  }
  absl::Status status =
      CheckPair("running_mean", !update.running_mean.empty(), "running_var", !update.running_var.empty());
  if (status.ok()) status = CheckList("running_mean", update.running_mean, config.num_channels, Range::kFinite);
  if (status.ok()) {
    status = CheckList("running_var", update.running_var, config.num_channels, Range::kFiniteNotNegative);
  }
  if (!status.ok()) return status;

  if (update.sample_count.empty()) {
    if (config.averaging == Averaging::kPooled) {
      return absl::InvalidArgumentError(
          "running_mean and running_var are given without sample_count, want it too: averaging POOLED weighs by it");
    }
  } else {
    status = CheckList("sample_count", update.sample_count, config.num_channels, Range::kFiniteNotNegative);
    if (!status.ok()) return status;
  }
  if (update.num_batches_tracked < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_batches_tracked is ", update.num_batches_tracked, ", want >= 0"));
  }
  if (update.skipped_batches.empty()) return absl::OkStatus();
  if (static_cast<int64_t>(update.skipped_batches.size()) != config.num_channels) {
    return absl::InvalidArgumentError(absl::StrCat("skipped_batches has ", update.skipped_batches.size(),
                                                   " entries, want ", config.num_channels, " (num_channels)"));
  }
  for (size_t c = 0; c < update.skipped_batches.size(); ++c) {
    const int64_t skipped = update.skipped_batches[c];
    if (skipped >= 0 && skipped <= update.num_batches_tracked) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "skipped_batches[", c, "] is ", skipped, ", want 0 to num_batches_tracked (", update.num_batches_tracked, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckAffine(const LayerConfig& config, const StateUpdate& update) {
  if (!update.SetsAffine()) return absl::OkStatus();
  if (!config.affine) return absl::InvalidArgumentError("gamma and beta are given, want none: affine is false");
  absl::Status status = CheckPair("gamma", !update.gamma.empty(), "beta", !update.beta.empty());
  if (status.ok()) status = CheckList("gamma", update.gamma, config.num_channels, Range::kFinite);
  if (status.ok()) status = CheckList("beta", update.beta, config.num_channels, Range::kFinite);
  return status;
}

}  // namespace

Statistics Statistics::Initial(const LayerConfig& config) {
  const size_t length = config.track_running_stats ? static_cast<size_t>(config.num_channels) : 0;
  Statistics statistics;
  statistics.running_mean.assign(length, 0.0);
  statistics.running_var.assign(length, 1.0);
  statistics.sample_count.assign(length, 0.0);
  return statistics;
}

Affine Affine::Initial(const LayerConfig& config) {
  const size_t length = config.affine ? static_cast<size_t>(config.num_channels) : 0;
  return {.gamma = std::vector<double>(length, 1.0), .beta = std::vector<double>(length, 0.0)};
}

std::string LayerSnapshot::Etag() const { return absl::StrCat(uid, "-", config_version); }

absl::Status ValidateStateUpdate(const LayerConfig& config, const StateUpdate& update) {
  absl::Status status = CheckStatistics(config, update);
  if (status.ok()) status = CheckAffine(config, update);
  return status;
}

}  // namespace normd::layer
