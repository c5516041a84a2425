#include "client/cpp/testing/src/fake_steps.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "client/cpp/src/convert.h"
#include "client/cpp/src/extents.h"
#include "normd/tensor.h"
#include "server/kernels/batch_norm.h"

namespace normd::testing {
namespace {

using Doubles = google::protobuf::RepeatedField<double>;
using internal::Extents;

absl::Span<const double> SpanOf(const Doubles& values) {
  return {values.data(), static_cast<std::size_t>(values.size())};
}

Doubles ToField(const std::vector<double>& values) { return {values.begin(), values.end()}; }

// A tensor of a request, checked.
struct Input {
  TensorView view;
  Extents extents;
};

absl::StatusOr<Input> Read(const v1::Layer& layer, absl::string_view what, const v1::Tensor& tensor) {
  if (tensor.has_shared_memory()) return absl::UnimplementedError("a FakeServer has no shared memory");
  const std::optional<DType> dtype = internal::FromProto(tensor.dtype());
  if (!dtype.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("dtype is ", tensor.dtype(), ", want one of DataType"));
  }
  Input input;
  input.view.dtype = *dtype;
  input.view.shape.assign(tensor.shape().begin(), tensor.shape().end());
  input.view.layout = tensor.layout() == v1::LAYOUT_CHANNELS_LAST ? Layout::kChannelsLast : Layout::kChannelsFirst;
  input.view.data = tensor.data();
  const absl::StatusOr<Extents> extents = internal::CheckedExtents(what, input.view);
  if (!extents.ok()) return extents.status();
  input.extents = *extents;
  if (tensor.data().empty()) return absl::InvalidArgumentError(absl::StrCat(what, " has no elements"));
  if (extents->num_channels != layer.config().num_channels()) {
    return absl::InvalidArgumentError(absl::StrCat("layer '", layer.name(), "': ", what, " has ", extents->num_channels,
                                                   " channels, want ", layer.config().num_channels()));
  }
  return input;
}

// The elements of a tensor in memory of their own, aligned as the kernels ask for.
template <typename T>
struct Elements {
  Elements(const Input& input, absl::Span<const char> bytes)
      : extents(input.extents), values(bytes.size() / sizeof(T)) {
    std::memcpy(values.data(), bytes.data(), bytes.size());
  }
  kernels::NcsView<const T> view() const { return {values.data(), extents.outer, extents.num_channels, extents.inner}; }
  kernels::NcsView<T> mutable_view() { return {values.data(), extents.outer, extents.num_channels, extents.inner}; }
  // As `like`, with these elements.
  void Write(const v1::Tensor& like, v1::Tensor* out) const {
    out->set_dtype(like.dtype());
    *out->mutable_shape() = like.shape();
    out->set_layout(like.layout());
    out->set_data(values.data(), values.size() * sizeof(T));
  }

  Extents extents;
  std::vector<T> values;
};

std::vector<double> InvStd(absl::Span<const double> var, double eps) {
  std::vector<double> inv_std(var.size());
  kernels::InverseStd(var, eps, absl::MakeSpan(inv_std));
  return inv_std;
}

double ClipOf(const v1::LayerConfig& config) {
  return config.has_clip() ? config.clip() : std::numeric_limits<double>::infinity();
}

struct Statistics {
  std::vector<double> mean;
  std::vector<double> var;
};

Statistics OfBatch(const Input& x) {
  Statistics batch{std::vector<double>(x.extents.num_channels), std::vector<double>(x.extents.num_channels)};
  internal::WithElement(x.view.dtype, [&](auto element) {
    const Elements<decltype(element)> elements(x, x.view.data);
    kernels::BatchStatistics<decltype(element)>(elements.view(), 1, absl::MakeSpan(batch.mean),
                                                absl::MakeSpan(batch.var));
  });
  return batch;
}

Statistics OfState(const v1::LayerState& state) {
  return {{state.running_mean().begin(), state.running_mean().end()},
          {state.running_var().begin(), state.running_var().end()}};
}

// out = `in` normalized, or denormalized, with `statistics` and the gamma and beta of `state`.
void Apply(bool inverse, const v1::LayerConfig& config, const v1::LayerState& state, const Statistics& statistics,
           const Input& in, const v1::Tensor& like, v1::Tensor* out) {
  const std::vector<double> inv_std = InvStd(statistics.var, config.eps());
  const kernels::ChannelParams params{.mean = statistics.mean,
                                      .inv_std = inv_std,
                                      .gamma = SpanOf(state.gamma()),
                                      .beta = SpanOf(state.beta()),
                                      .clip = ClipOf(config)};
  internal::WithElement(in.view.dtype, [&](auto element) {
    using T = decltype(element);
    Elements<T> elements(in, in.view.data);
    if (inverse) {
      kernels::Denormalize<T>(elements.view(), params, 1, elements.mutable_view());
    } else {
      kernels::Normalize<T>(elements.view(), params, 1, elements.mutable_view());
    }
    elements.Write(like, out);
  });
}

// The weight of the t-th batch, from 1 (resources.proto, Averaging).
double BatchWeight(const v1::LayerConfig& config, int64_t t) {
  switch (config.averaging()) {
    case v1::AVERAGING_EXPONENTIAL_DEBIASED:
      return config.update_weight() / (1 - std::pow(1 - config.update_weight(), static_cast<double>(t)));
    case v1::AVERAGING_CUMULATIVE:
      return 1.0 / static_cast<double>(t);
    default:
      return config.update_weight();
  }
}

// Folds a batch with counts[c] values in channel c into the running statistics; channels with none sit out.
absl::Status Fold(const v1::LayerConfig& config, const std::vector<int64_t>& counts, const Statistics& batch,
                  v1::LayerState* state) {
  const bool sample = config.running_var_estimator() == v1::VARIANCE_ESTIMATOR_SAMPLE;
  const bool pooled = config.averaging() == v1::AVERAGING_POOLED;
  for (const int64_t count : counts) {
    if (count != 1 || !sample || pooled) continue;
    return absl::InvalidArgumentError("one value per channel, want at least 2: the sample variance divides by n - 1");
  }
  state->set_num_batches_tracked(state->num_batches_tracked() + 1);
  const double weight = BatchWeight(config, state->num_batches_tracked());
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const auto c = static_cast<int>(i);
    if (counts[i] == 0) continue;
    double& mean = *state->mutable_running_mean()->Mutable(c);
    double& var = *state->mutable_running_var()->Mutable(c);
    double& seen = *state->mutable_sample_count()->Mutable(c);
    const auto count = static_cast<double>(counts[i]);
    const double bessel = sample ? 1 : 0;
    if (pooled) {
      // Chan et al.
      const double total = seen + count;
      const double delta = batch.mean[i] - mean;
      const double m2 = seen == 0 ? batch.var[i] * count
                                  : var * std::max(0.0, seen - bessel) + batch.var[i] * count +
                                        delta * delta * (seen * (count / total));
      mean = seen == 0 ? batch.mean[i] : mean + delta * (count / total);
      if (total > bessel) var = m2 / (total - bessel);
    } else {
      mean = (1 - weight) * mean + weight * batch.mean[i];
      var = (1 - weight) * var + weight * batch.var[i] * (sample ? count / (count - 1) : 1);
    }
    seen += count;
  }
  return absl::OkStatus();
}

absl::Status CheckFinite(const v1::Layer& layer, absl::string_view what, const Statistics& batch) {
  if (layer.config().non_finite_policy() == v1::NON_FINITE_POLICY_PROPAGATE) return absl::OkStatus();
  for (std::size_t c = 0; c < batch.mean.size(); ++c) {
    if (std::isfinite(batch.mean[c]) && std::isfinite(batch.var[c])) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "layer '", layer.name(), "': ", what, " has NaN or infinity in channel ", c, " (non_finite_policy is REJECT)"));
  }
  return absl::OkStatus();
}

absl::Status CheckTracks(const v1::Layer& layer) {
  if (layer.config().track_running_stats()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("layer '", layer.name(), "' keeps no running statistics"));
}

absl::Status CheckLength(absl::string_view field, int size, int64_t want) {
  if (size == want) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " has ", size, " entries, want ", want));
}

}  // namespace

void SetInvStd(const v1::LayerConfig& config, v1::LayerState* state) {
  *state->mutable_inv_std() = ToField(InvStd(SpanOf(state->running_var()), config.eps()));
}

absl::Status TrainStep(const v1::TrainStepRequest& request, FakeLayer* layer, v1::TrainStepResponse* response) {
  const v1::LayerConfig& config = layer->now.config();
  const absl::StatusOr<Input> x = Read(layer->now, "x", request.x());
  if (!x.ok()) return x.status();
  v1::LayerState next = layer->now.state();
  if (request.gamma_size() > 0 || request.beta_size() > 0) {
    const int64_t want = config.affine() ? config.num_channels() : 0;
    absl::Status status = CheckLength("gamma", request.gamma_size(), want);
    if (status.ok()) status = CheckLength("beta", request.beta_size(), want);
    if (!status.ok()) return status;
    *next.mutable_gamma() = request.gamma();
    *next.mutable_beta() = request.beta();
  }
  const Statistics batch = OfBatch(*x);
  if (absl::Status status = CheckFinite(layer->now, "x", batch); !status.ok()) return status;

  const Statistics before = OfState(next);
  if (config.track_running_stats()) {
    const std::vector<int64_t> counts(batch.mean.size(), x->extents.ValuesPerChannel());
    if (absl::Status status = Fold(config, counts, batch, &next); !status.ok()) return status;
  }
  if (!request.omit_output()) {
    const bool after = config.normalize_training_with() == v1::TRAINING_STATISTICS_RUNNING_AFTER_UPDATE;
    const bool of_batch = config.normalize_training_with() == v1::TRAINING_STATISTICS_BATCH;
    Apply(false, config, next, of_batch ? batch : (after ? OfState(next) : before), *x, request.x(),
          response->mutable_y());
  }
  if (!request.skip_update()) {
    *layer->now.mutable_state() = next;
    Commit(layer);
  }
  *response->mutable_batch_mean() = ToField(batch.mean);
  *response->mutable_batch_var() = ToField(batch.var);
  response->set_version(layer->now.version());
  response->set_content_hash(layer->now.content_hash());
  response->set_num_batches_tracked(layer->now.state().num_batches_tracked());
  return absl::OkStatus();
}

absl::Status Infer(const v1::InferRequest& request, const v1::Layer& layer, v1::InferResponse* response) {
  const absl::StatusOr<Input> x = Read(layer, "x", request.x());
  if (!x.ok()) return x.status();
  const Statistics statistics = layer.config().track_running_stats() ? OfState(layer.state()) : OfBatch(*x);
  Apply(false, layer.config(), layer.state(), statistics, *x, request.x(), response->mutable_y());
  response->set_version(layer.version());
  response->set_content_hash(layer.content_hash());
  return absl::OkStatus();
}

absl::Status Denormalize(const v1::DenormalizeRequest& request, const v1::Layer& layer,
                         v1::DenormalizeResponse* response) {
  const absl::StatusOr<Input> y = Read(layer, "y", request.y());
  if (!y.ok()) return y.status();
  if (absl::Status status = CheckTracks(layer); !status.ok()) return status;
  for (const double gamma : layer.state().gamma()) {
    if (gamma == 0) return absl::FailedPreconditionError("gamma is 0, which has no inverse");
  }
  Apply(true, layer.config(), layer.state(), OfState(layer.state()), *y, request.y(), response->mutable_x());
  response->set_version(layer.version());
  response->set_content_hash(layer.content_hash());
  return absl::OkStatus();
}

absl::Status Backward(const v1::BackwardRequest& request, const v1::Layer& version, FakeLayer* layer,
                      v1::BackwardResponse* response) {
  const v1::LayerConfig& config = version.config();
  const absl::StatusOr<Input> x = Read(version, "x", request.x());
  if (!x.ok()) return x.status();
  const absl::StatusOr<Input> dy = Read(version, "dy", request.dy());
  if (!dy.ok()) return dy.status();
  if (x->view.dtype != dy->view.dtype || x->view.shape != dy->view.shape || x->view.layout != dy->view.layout) {
    return absl::InvalidArgumentError("dy has another dtype, shape or layout than x, want the same");
  }
  const bool frozen = request.mode() == v1::BACKWARD_MODE_FROZEN;
  const bool steps = request.optimizer_case() != v1::BackwardRequest::OPTIMIZER_NOT_SET;
  const int64_t want = frozen ? 0 : config.num_channels();
  absl::Status status = CheckLength("batch_mean", request.batch_mean_size(), want);
  if (status.ok()) status = CheckLength("batch_var", request.batch_var_size(), want);
  if (status.ok() && request.gamma_size() > 0) {
    status = CheckLength("gamma", request.gamma_size(), config.affine() ? config.num_channels() : 0);
  }
  if (status.ok() && frozen) status = CheckTracks(version);
  if (!status.ok()) return status;
  if (!frozen && config.normalize_training_with() != v1::TRAINING_STATISTICS_BATCH) {
    return absl::FailedPreconditionError("the training output does not come from batch statistics");
  }
  if (!frozen && request.version() != 0)
    return absl::InvalidArgumentError("version is given, want it in frozen mode only");
  if (steps && version.version() != layer->now.version()) {
    return absl::FailedPreconditionError("an optimizer's step can only be taken on the newest version");
  }
  if (steps && !config.affine()) return absl::FailedPreconditionError("an optimizer needs an affine layer");

  const Statistics statistics = frozen ? OfState(version.state())
                                       : Statistics{{request.batch_mean().begin(), request.batch_mean().end()},
                                                    {request.batch_var().begin(), request.batch_var().end()}};
  const std::vector<double> inv_std = InvStd(statistics.var, config.eps());
  const kernels::ChannelParams params{
      .mean = statistics.mean,
      .inv_std = inv_std,
      .gamma = SpanOf(request.gamma_size() > 0 ? request.gamma() : version.state().gamma()),
      .clip = ClipOf(config)};
  std::vector<double> dgamma(statistics.mean.size());
  std::vector<double> dbeta(statistics.mean.size());
  internal::WithElement(x->view.dtype, [&](auto element) {
    using T = decltype(element);
    const Elements<T> elements(*x, x->view.data);
    Elements<T> dx(*dy, dy->view.data);
    kernels::Backward<T>(elements.view(), dx.view(), params,
                         frozen ? kernels::GradientMode::kConstant : kernels::GradientMode::kBatch, 1,
                         absl::MakeSpan(dgamma), absl::MakeSpan(dbeta), dx.mutable_view());
    if (!request.omit_dx()) dx.Write(request.dy(), response->mutable_dx());
  });
  if (config.affine()) {
    *response->mutable_dgamma() = ToField(dgamma);
    *response->mutable_dbeta() = ToField(dbeta);
  }
  response->set_version(version.version());
  response->set_content_hash(version.content_hash());
  if (!steps) return absl::OkStatus();
  layer->optimizer.Step(request, dgamma, dbeta, layer->now.mutable_state());
  Commit(layer);
  *response->mutable_gamma() = layer->now.state().gamma();
  *response->mutable_beta() = layer->now.state().beta();
  response->set_version(layer->now.version());
  response->set_content_hash(layer->now.content_hash());
  return absl::OkStatus();
}

absl::Status MergeMoments(const v1::MergeMomentsRequest& request, FakeLayer* layer,
                          v1::MergeMomentsResponse* response) {
  const v1::Moments& moments = request.moments();
  const int64_t num_channels = layer->now.config().num_channels();
  absl::Status status = CheckTracks(layer->now);
  if (status.ok() && moments.count_size() != 1)
    status = CheckLength("moments.count", moments.count_size(), num_channels);
  if (status.ok()) status = CheckLength("moments.mean", moments.mean_size(), num_channels);
  if (status.ok()) status = CheckLength("moments.m2", moments.m2_size(), num_channels);
  if (!status.ok()) return status;
  if (request.contributor().empty() != (request.sequence() == 0)) {
    return absl::InvalidArgumentError("contributor and sequence: want both or none");
  }

  Statistics batch;
  std::vector<int64_t> counts;
  for (int c = 0; c < static_cast<int>(num_channels); ++c) {
    int64_t count = moments.count(moments.count_size() == 1 ? 0 : c);
    const int64_t non_finite = moments.non_finite_count_size() > c ? moments.non_finite_count(c) : 0;
    const double invalid = std::numeric_limits<double>::quiet_NaN();
    batch.mean.push_back(non_finite > 0 ? invalid : (count == 0 ? 0 : moments.mean(c)));
    batch.var.push_back(non_finite > 0 ? invalid : (count == 0 ? 0 : moments.m2(c) / static_cast<double>(count)));
    counts.push_back(count + non_finite);
  }
  if (std::all_of(counts.begin(), counts.end(), [](int64_t count) { return count == 0; })) {
    return absl::InvalidArgumentError("moments.count is 0 for every channel, want at least one value");
  }
  if (status = CheckFinite(layer->now, "moments", batch); !status.ok()) return status;

  int64_t* const last = request.contributor().empty() ? nullptr : &layer->sequences[request.contributor()];
  if (last != nullptr && request.sequence() <= *last) {
    response->set_replayed(true);
  } else {
    if (status = Fold(layer->now.config(), counts, batch, layer->now.mutable_state()); !status.ok()) return status;
    if (last != nullptr) *last = request.sequence();
    Commit(layer);
  }
  const v1::Layer& now = layer->now;
  response->set_version(now.version());
  response->set_content_hash(now.content_hash());
  *response->mutable_running_mean() = now.state().running_mean();
  *response->mutable_running_var() = now.state().running_var();
  *response->mutable_sample_count() = now.state().sample_count();
  response->set_num_batches_tracked(now.state().num_batches_tracked());
  return absl::OkStatus();
}

}  // namespace normd::testing
