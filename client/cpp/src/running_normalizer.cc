#include "normd/running_normalizer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/src/extents.h"
#include "client/cpp/src/layer_version.h"
#include "client/cpp/src/runtime.h"
#include "client/cpp/src/warning.h"

namespace normd {
inline namespace abi_0_1 {
namespace {

using internal::Extents;
using internal::LayerVersion;

// The time left of a call that consists of several.
class Deadline {
 public:
  explicit Deadline(absl::Duration timeout) : end_(Now() + timeout) {}
  absl::Duration Left() const { return end_ - Now(); }

 private:
  static absl::Duration Now() { return internal::Runtime::System()->Now(); }

  const absl::Duration end_;
};

template <typename Condition>
bool WaitFor(std::condition_variable* changed, std::unique_lock<std::mutex>* lock, absl::Duration time,
             const Condition& condition) {
  // Later than this is never, but fits a clock.
  constexpr absl::Duration kForever = absl::Hours(24 * 365);
  return changed->wait_for(*lock, absl::ToChronoNanoseconds(std::clamp(time, absl::ZeroDuration(), kForever)),
                           condition);
}

absl::Status CheckOptions(int64_t num_channels, const RunningNormalizerOptions& options) {
  if (num_channels < 1) {
    return absl::InvalidArgumentError(absl::StrCat("num_channels is ", num_channels, ", want 1 or more"));
  }
  if (options.clip.has_value() && !(*options.clip > 0)) {
    return absl::InvalidArgumentError(absl::StrCat("clip is ", *options.clip, ", want a number > 0, or none"));
  }
  if (!(options.eps > 0) || std::isinf(options.eps)) {
    return absl::InvalidArgumentError(absl::StrCat("eps is ", options.eps, ", want a number > 0"));
  }
  if (options.push_every <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("push_every is ", absl::FormatDuration(options.push_every), ", want more than 0"));
  }
  if (options.push_batches < 0) {
    return absl::InvalidArgumentError(absl::StrCat("push_batches is ", options.push_batches, ", want 0 or more"));
  }
  if (options.push_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(
        absl::StrCat("push_timeout is ", absl::FormatDuration(options.push_timeout), ", want more than 0"));
  }
  return absl::OkStatus();
}

RunningNormalizerOptions WithDefaults(RunningNormalizerOptions options) {
  if (options.contributor.empty()) options.contributor = internal::Runtime::System()->NewRequestId();
  if (!options.on_warning) options.on_warning = internal::PrintWarning;
  return options;
}

CallOptions WithTimeout(absl::Duration timeout) {
  CallOptions options;
  options.timeout = timeout;
  return options;
}

int64_t MostOf(const std::vector<int64_t>& counts) {
  return counts.empty() ? 0 : *std::max_element(counts.begin(), counts.end());
}

absl::StatusOr<Extents> ExtentsFor(absl::string_view layer, absl::string_view what, const TensorView& tensor,
                                   int64_t num_channels) {
  absl::StatusOr<Extents> extents = internal::CheckedExtents(what, tensor);
  if (!extents.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("layer '", layer, "': ", extents.status().message()));
  }
  if (extents->num_channels != num_channels) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer '", layer, "': ", what, " has ", extents->num_channels, " channels, want ", num_channels));
  }
  return extents;
}

absl::Status CheckOutput(absl::string_view layer, absl::string_view what, absl::Span<char> out,
                         const TensorView& input) {
  if (out.size() == input.data.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("layer '", layer, "': ", what, " has room for ", out.size(),
                                                 " bytes, want ", input.data.size(), " as the input has"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RunningNormalizer>> RunningNormalizer::Open(Client* client, absl::string_view layer,
                                                                           int64_t num_channels,
                                                                           const RunningNormalizerOptions& options) {
  absl::Status status = CheckOptions(num_channels, options);
  if (!status.ok()) return status;
  std::unique_ptr<RunningNormalizer> normalizer(
      new RunningNormalizer(client, layer, num_channels, WithDefaults(options)));
  status = normalizer->TakeOver(normalizer->FindOrCreate());
  if (!status.ok()) return status;
  normalizer->thread_ = std::thread([self = normalizer.get()] { self->PushInBackground(); });
  return normalizer;
}

RunningNormalizer::RunningNormalizer(Client* client, absl::string_view layer, int64_t num_channels,
                                     const RunningNormalizerOptions& options)
    : client_(client),
      layer_(layer),
      num_channels_(num_channels),
      options_(options),
      last_sequence_(absl::GetCurrentTimeNanos()) {}

RunningNormalizer::~RunningNormalizer() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (pending() == 0) return;
  const absl::Status status = Flush(options_.push_timeout);
  if (const int64_t lost = pending(); lost > 0) {
    options_.on_warning(absl::StrCat(lost, " observations are lost to layer '", layer_, "': ", status.ToString()));
  }
}

absl::Status RunningNormalizer::Observe(const TensorView& x) {
  const absl::StatusOr<Extents> extents = ExtentsFor(layer_, "x", x, num_channels_);
  if (!extents.ok()) return extents.status();
  absl::StatusOr<Moments> moments = ComputeMoments(x);
  if (!moments.ok()) return moments.status();
  int64_t non_finite = 0;
  for (const int64_t count : moments->non_finite_count) non_finite += count;
  if (non_finite > 0 && !options_.skip_non_finite) {
    return absl::InvalidArgumentError(absl::StrCat("layer '", layer_, "': x holds ", non_finite,
                                                   " NaN or infinite values, want finite ones (skip_non_finite is "
                                                   "false)"));
  }
  // Those that are left out are left out on purpose.
  moments->non_finite_count.clear();
  bool wake = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    absl::Status status = delta_.Merge(*moments);
    if (!status.ok()) return status;
    wake = ++batches_ == options_.push_batches;
  }
  if (wake) changed_.notify_all();
  return absl::OkStatus();
}

absl::Status RunningNormalizer::Normalize(const TensorView& x, absl::Span<char> y) const {
  const absl::StatusOr<Extents> extents = ExtentsFor(layer_, "x", x, num_channels_);
  if (!extents.ok()) return extents.status();
  absl::Status status = CheckOutput(layer_, "y", y, x);
  if (status.ok()) version()->Normalize(x, *extents, y);
  return status;
}

absl::Status RunningNormalizer::Denormalize(const TensorView& y, absl::Span<char> x) const {
  const absl::StatusOr<Extents> extents = ExtentsFor(layer_, "y", y, num_channels_);
  if (!extents.ok()) return extents.status();
  absl::Status status = CheckOutput(layer_, "x", x, y);
  if (!status.ok()) return status;
  status = version()->Denormalize(y, *extents, x);
  if (status.ok()) return status;
  return {status.code(), absl::StrCat("layer '", layer_, "': ", status.message())};
}

std::shared_ptr<const RunningStatistics> RunningNormalizer::statistics() const {
  std::shared_ptr<const LayerVersion> version = this->version();
  const RunningStatistics* const statistics = &version->statistics();
  return {std::move(version), statistics};
}

absl::Status RunningNormalizer::Flush(absl::Duration timeout) {
  const Deadline deadline(timeout);
  std::unique_lock<std::mutex> lock(mutex_);
  if (!WaitFor(&changed_, &lock, deadline.Left(), [this] { return !pushing_; })) {
    return absl::DeadlineExceededError(absl::StrCat("layer '", layer_, "': another push has been under way for ",
                                                    absl::FormatDuration(timeout), ", the timeout"));
  }
  pushing_ = true;
  lock.unlock();
  absl::Status status = Push(deadline.Left());
  lock.lock();
  pushing_ = false;
  last_status_ = status;
  lock.unlock();
  changed_.notify_all();
  return status;
}

int64_t RunningNormalizer::pending() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return MostOf(delta_.count) + (sent_.has_value() ? MostOf(sent_->moments.count) : 0);
}

absl::Status RunningNormalizer::last_status() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return last_status_;
}

absl::StatusOr<Layer> RunningNormalizer::FindOrCreate() const {
  absl::StatusOr<Layer> layer = client_->GetLayer(layer_, true);
  if (!absl::IsNotFound(layer.status()) || !options_.create) return layer;
  LayerSpec spec;
  spec.name = layer_;
  spec.preset = "rl_observation";
  spec.config.num_channels = num_channels_;
  spec.config.eps = options_.eps;
  spec.config.clip = options_.clip;
  absl::Status status = client_->CreateLayer(spec).status();
  // The preset has a clip.
  if (status.ok() && !options_.clip.has_value()) status = client_->UpdateLayer(layer_, {}, {"clip"}).status();
  // Another actor may have been faster.
  if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  return client_->GetLayer(layer_, true);
}

absl::Status RunningNormalizer::TakeOver(const absl::StatusOr<Layer>& layer) {
  if (!layer.ok()) return layer.status();
  absl::StatusOr<std::shared_ptr<const LayerVersion>> version = LayerVersion::Of(*layer, num_channels_);
  if (!version.ok()) return version.status();
  const std::lock_guard<std::mutex> lock(mutex_);
  version_ = *std::move(version);
  return absl::OkStatus();
}

absl::Status RunningNormalizer::Push(absl::Duration timeout) {
  const Deadline deadline(timeout);
  bool again = false;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    // Also if this fails: what could not be pushed is to wait, not to wake.
    batches_ = 0;
    again = sent_.has_value();
  }
  absl::Status status = Send(deadline.Left());
  // What gathered while an earlier push had failed.
  if (status.ok() && again) status = Send(deadline.Left());
  if (!status.ok()) return status;
  return TakeOver(client_->GetLayer(layer_, true, WithTimeout(deadline.Left())));
}

absl::Status RunningNormalizer::Send(absl::Duration timeout) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!sent_.has_value()) {
      if (MostOf(delta_.count) == 0) return absl::OkStatus();
      sent_ = Sent{++last_sequence_, std::exchange(delta_, {})};
    }
  }
  // Only a push changes it, and this is the only one.
  MergeMomentsOptions merge;
  merge.timeout = timeout;
  merge.contributor = options_.contributor;
  merge.sequence = sent_->sequence;
  absl::Status status = client_->MergeMoments(layer_, sent_->moments, merge).status();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (status.ok()) {
    sent_.reset();
  } else if (absl::IsInvalidArgument(status)) {
    // Not folded in for sure, nor is it by an attempt that got no answer: what moments are refused for does not change.
    // With more values they may be accepted.
    absl::Status merged = sent_->moments.Merge(delta_);
    if (!merged.ok()) return merged;
    delta_ = std::move(sent_->moments);
    sent_.reset();
  }
  return status;
}

void RunningNormalizer::PushInBackground() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    WaitFor(&changed_, &lock, options_.push_every,
            [this] { return stopping_ || (options_.push_batches > 0 && batches_ >= options_.push_batches); });
    if (stopping_) return;
    const bool failed_before = !last_status_.ok();
    lock.unlock();
    const absl::Status status = Flush(options_.push_timeout);
    if (!status.ok() && !failed_before) {
      options_.on_warning(
          absl::StrCat("pushing to layer '", layer_, "' failed, and will be tried again: ", status.ToString()));
    }
    lock.lock();
  }
}

std::shared_ptr<const LayerVersion> RunningNormalizer::version() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return version_;
}

}  // namespace abi_0_1
}  // namespace normd
