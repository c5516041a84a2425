#include "client/cpp/src/convert.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "client/cpp/src/memory.h"

namespace normd::internal {
namespace {

// A protobuf message is at most 2^31 - 1 bytes; the rest of a request needs some of them.
constexpr std::size_t kMostTensorBytes = (std::size_t{1} << 31) - (std::size_t{16} << 20);

template <typename Repeated, typename T>
void Assign(const std::vector<T>& values, Repeated* out) {
  out->Assign(values.begin(), values.end());
}

template <typename Repeated>
auto ToVector(const Repeated& values) {
  return std::vector<typename Repeated::value_type>(values.begin(), values.end());
}

v1::Averaging ToProto(Averaging value) {
  switch (value) {
    case Averaging::kExponential:
      return v1::AVERAGING_EXPONENTIAL;
    case Averaging::kExponentialDebiased:
      return v1::AVERAGING_EXPONENTIAL_DEBIASED;
    case Averaging::kCumulative:
      return v1::AVERAGING_CUMULATIVE;
    case Averaging::kPooled:
      return v1::AVERAGING_POOLED;
  }
  return v1::AVERAGING_UNSPECIFIED;
}

v1::VarianceEstimator ToProto(VarianceEstimator value) {
  return value == VarianceEstimator::kSample ? v1::VARIANCE_ESTIMATOR_SAMPLE : v1::VARIANCE_ESTIMATOR_POPULATION;
}

v1::TrainingStatistics ToProto(TrainingStatistics value) {
  switch (value) {
    case TrainingStatistics::kBatch:
      return v1::TRAINING_STATISTICS_BATCH;
    case TrainingStatistics::kRunningBeforeUpdate:
      return v1::TRAINING_STATISTICS_RUNNING_BEFORE_UPDATE;
    case TrainingStatistics::kRunningAfterUpdate:
      return v1::TRAINING_STATISTICS_RUNNING_AFTER_UPDATE;
  }
  return v1::TRAINING_STATISTICS_UNSPECIFIED;
}

v1::NonFinitePolicy ToProto(NonFinitePolicy value) {
  switch (value) {
    case NonFinitePolicy::kReject:
      return v1::NON_FINITE_POLICY_REJECT;
    case NonFinitePolicy::kSkipChannel:
      return v1::NON_FINITE_POLICY_SKIP_CHANNEL;
    case NonFinitePolicy::kPropagate:
      return v1::NON_FINITE_POLICY_PROPAGATE;
  }
  return v1::NON_FINITE_POLICY_UNSPECIFIED;
}

v1::DataType ToProto(DType value) {
  switch (value) {
    case DType::kFloat32:
      return v1::DATA_TYPE_FLOAT32;
    case DType::kFloat64:
      return v1::DATA_TYPE_FLOAT64;
    case DType::kFloat16:
      return v1::DATA_TYPE_FLOAT16;
    case DType::kBFloat16:
      return v1::DATA_TYPE_BFLOAT16;
  }
  return v1::DATA_TYPE_UNSPECIFIED;
}

// A value that this client does not know, from a newer server, reads as absent.
std::optional<Averaging> FromProto(v1::Averaging value) {
  switch (value) {
    case v1::AVERAGING_EXPONENTIAL:
      return Averaging::kExponential;
    case v1::AVERAGING_EXPONENTIAL_DEBIASED:
      return Averaging::kExponentialDebiased;
    case v1::AVERAGING_CUMULATIVE:
      return Averaging::kCumulative;
    case v1::AVERAGING_POOLED:
      return Averaging::kPooled;
    default:
      return std::nullopt;
  }
}

std::optional<VarianceEstimator> FromProto(v1::VarianceEstimator value) {
  switch (value) {
    case v1::VARIANCE_ESTIMATOR_POPULATION:
      return VarianceEstimator::kPopulation;
    case v1::VARIANCE_ESTIMATOR_SAMPLE:
      return VarianceEstimator::kSample;
    default:
      return std::nullopt;
  }
}

std::optional<TrainingStatistics> FromProto(v1::TrainingStatistics value) {
  switch (value) {
    case v1::TRAINING_STATISTICS_BATCH:
      return TrainingStatistics::kBatch;
    case v1::TRAINING_STATISTICS_RUNNING_BEFORE_UPDATE:
      return TrainingStatistics::kRunningBeforeUpdate;
    case v1::TRAINING_STATISTICS_RUNNING_AFTER_UPDATE:
      return TrainingStatistics::kRunningAfterUpdate;
    default:
      return std::nullopt;
  }
}

std::optional<NonFinitePolicy> FromProto(v1::NonFinitePolicy value) {
  switch (value) {
    case v1::NON_FINITE_POLICY_REJECT:
      return NonFinitePolicy::kReject;
    case v1::NON_FINITE_POLICY_SKIP_CHANNEL:
      return NonFinitePolicy::kSkipChannel;
    case v1::NON_FINITE_POLICY_PROPAGATE:
      return NonFinitePolicy::kPropagate;
    default:
      return std::nullopt;
  }
}

absl::Time FromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

}  // namespace

std::optional<DType> FromProto(v1::DataType value) {
  switch (value) {
    case v1::DATA_TYPE_FLOAT32:
      return DType::kFloat32;
    case v1::DATA_TYPE_FLOAT64:
      return DType::kFloat64;
    case v1::DATA_TYPE_FLOAT16:
      return DType::kFloat16;
    case v1::DATA_TYPE_BFLOAT16:
      return DType::kBFloat16;
    default:
      return std::nullopt;
  }
}

v1::LayerConfig ToProto(const LayerConfig& config) {
  v1::LayerConfig out;
  out.set_num_channels(config.num_channels);
  if (config.eps) out.set_eps(*config.eps);
  if (config.averaging) out.set_averaging(ToProto(*config.averaging));
  if (config.update_weight) out.set_update_weight(*config.update_weight);
  if (config.running_var_estimator) out.set_running_var_estimator(ToProto(*config.running_var_estimator));
  if (config.normalize_training_with) out.set_normalize_training_with(ToProto(*config.normalize_training_with));
  if (config.affine) out.set_affine(*config.affine);
  if (config.track_running_stats) out.set_track_running_stats(*config.track_running_stats);
  if (config.clip) out.set_clip(*config.clip);
  if (config.frozen) out.set_frozen(*config.frozen);
  if (config.non_finite_policy) out.set_non_finite_policy(ToProto(*config.non_finite_policy));
  return out;
}

v1::LayerState ToProto(const LayerState& state) {
  v1::LayerState out;
  Assign(state.running_mean, out.mutable_running_mean());
  Assign(state.running_var, out.mutable_running_var());
  Assign(state.sample_count, out.mutable_sample_count());
  out.set_num_batches_tracked(state.num_batches_tracked);
  Assign(state.skipped_batches, out.mutable_skipped_batches());
  Assign(state.gamma, out.mutable_gamma());
  Assign(state.beta, out.mutable_beta());
  return out;
}

v1::Sgd ToProto(const Sgd& sgd) {
  v1::Sgd out;
  out.set_learning_rate(sgd.learning_rate);
  out.set_momentum(sgd.momentum);
  out.set_dampening(sgd.dampening);
  out.set_nesterov(sgd.nesterov);
  out.set_weight_decay(sgd.weight_decay);
  return out;
}

v1::Adam ToProto(const Adam& adam) {
  v1::Adam out;
  out.set_learning_rate(adam.learning_rate);
  out.set_beta1(adam.beta1);
  out.set_beta2(adam.beta2);
  out.set_eps(adam.eps);
  out.set_weight_decay(adam.weight_decay);
  out.set_decoupled_weight_decay(adam.decoupled_weight_decay);
  return out;
}

v1::Moments ToProto(const Moments& moments) {
  v1::Moments out;
  Assign(moments.count, out.mutable_count());
  Assign(moments.mean, out.mutable_mean());
  Assign(moments.m2, out.mutable_m2());
  Assign(moments.min, out.mutable_min());
  Assign(moments.max, out.mutable_max());
  Assign(moments.non_finite_count, out.mutable_non_finite_count());
  return out;
}

v1::RestoreSelection ToProto(const RestoreSelection& selection) {
  v1::RestoreSelection out;
  out.set_layer(selection.selection.layer);
  out.set_prefix(selection.selection.prefix);
  if (selection.new_name) out.set_new_name(*selection.new_name);
  return out;
}

LayerConfig FromProto(const v1::LayerConfig& config) {
  LayerConfig out;
  out.num_channels = config.num_channels();
  if (config.has_eps()) out.eps = config.eps();
  out.averaging = FromProto(config.averaging());
  if (config.has_update_weight()) out.update_weight = config.update_weight();
  out.running_var_estimator = FromProto(config.running_var_estimator());
  out.normalize_training_with = FromProto(config.normalize_training_with());
  if (config.has_affine()) out.affine = config.affine();
  if (config.has_track_running_stats()) out.track_running_stats = config.track_running_stats();
  if (config.has_clip()) out.clip = config.clip();
  out.non_finite_policy = FromProto(config.non_finite_policy());
  if (config.has_frozen()) out.frozen = config.frozen();
  return out;
}

LayerState FromProto(const v1::LayerState& state) {
  LayerState out;
  out.running_mean = ToVector(state.running_mean());
  out.running_var = ToVector(state.running_var());
  out.sample_count = ToVector(state.sample_count());
  out.num_batches_tracked = state.num_batches_tracked();
  out.skipped_batches = ToVector(state.skipped_batches());
  out.gamma = ToVector(state.gamma());
  out.beta = ToVector(state.beta());
  out.inv_std = ToVector(state.inv_std());
  return out;
}

Layer FromProto(const v1::Layer& layer) {
  Layer out;
  out.name = layer.name();
  out.uid = layer.uid();
  out.preset = layer.preset();
  out.config = FromProto(layer.config());
  if (layer.has_state()) out.state = FromProto(layer.state());
  out.version = layer.version();
  out.content_hash = layer.content_hash();
  out.etag = layer.etag();
  out.create_time = FromProto(layer.create_time());
  out.update_time = FromProto(layer.update_time());
  out.affine_group = layer.affine_group();
  return out;
}

Snapshot FromProto(const v1::Snapshot& snapshot) {
  return {.name = snapshot.name(),
          .selection = {.layer = snapshot.layer(), .prefix = snapshot.prefix()},
          .num_layers = snapshot.num_layers(),
          .create_time = FromProto(snapshot.create_time())};
}

absl::Status CheckTensor(absl::string_view layer, absl::string_view what, const TensorView& tensor) {
  const auto subject = [&] {
    return absl::StrCat("layer '", layer, "': ", what, " of shape [", absl::StrJoin(tensor.shape, ", "), "]");
  };
  const std::optional<std::size_t> wanted = BytesOf(tensor.shape, tensor.dtype);
  if (!wanted.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(subject(), ": want extents >= 0 whose product fits the address space"));
  }
  if (*wanted != tensor.data.size()) {
    return absl::InvalidArgumentError(absl::StrCat(subject(), " has ", tensor.data.size(), " bytes, want ", *wanted,
                                                   " (", NameOf(tensor.dtype), ")"));
  }
  if (tensor.data.size() > kMostTensorBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(subject(), " has ", tensor.data.size(),
                                                     " bytes, one message carries at most ", kMostTensorBytes,
                                                     "; send it in parts"));
  }
  return absl::OkStatus();
}

absl::Status CheckTogether(absl::string_view layer, const TensorView& x, const TensorView& dy) {
  if (x.data.size() <= kMostTensorBytes - dy.data.size()) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("layer '", layer, "': x and dy have ", x.data.size() + dy.data.size(),
                   " bytes, one message carries at most ", kMostTensorBytes, "; send them in parts"));
}

void DescribeTensor(const TensorView& tensor, v1::Tensor* out) {
  out->set_dtype(ToProto(tensor.dtype));
  Assign(tensor.shape, out->mutable_shape());
  out->set_layout(tensor.layout == Layout::kChannelsLast ? v1::LAYOUT_CHANNELS_LAST : v1::LAYOUT_CHANNELS_FIRST);
}

absl::StatusOr<Tensor> TakeTensor(const v1::Tensor& tensor, const Elements& elements) {
  const std::optional<DType> dtype = FromProto(tensor.dtype());
  if (!dtype) {
    return absl::InternalError(
        absl::StrCat("the server answered with a tensor of a dtype that this client does not know: ",
                     static_cast<int>(tensor.dtype())));
  }
  const Layout layout = tensor.layout() == v1::LAYOUT_CHANNELS_LAST ? Layout::kChannelsLast : Layout::kChannelsFirst;
  std::vector<int64_t> shape = ToVector(tensor.shape());
  const std::size_t size = elements.shared.empty() ? elements.payload.size : elements.shared.size();
  if (BytesOf(shape, *dtype) != size || (!elements.into.empty() && elements.into.size() != size)) {
    return absl::InternalError(absl::StrCat("the server answered with a tensor of shape [", absl::StrJoin(shape, ", "),
                                            "] and ", size, " bytes of ", NameOf(*dtype)));
  }
  if (!elements.into.empty()) {
    if (elements.shared.empty()) {
      elements.message->Copy(elements.payload.begin, size, elements.into.data());
    } else if (elements.shared.data() != elements.into.data()) {
      std::memcpy(elements.into.data(), elements.shared.data(), size);
    }
    return Tensor(*dtype, std::move(shape), layout, nullptr, 0);
  }
  if (!elements.shared.empty()) {
    return Tensor(*dtype, std::move(shape), layout, {elements.owner, elements.shared.data()}, size);
  }
  std::shared_ptr<char> memory = PooledMemory(size, elements.pool);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat("no memory for the ", size, " bytes of the answer"));
  }
  elements.message->Copy(elements.payload.begin, size, memory.get());
  return Tensor(*dtype, std::move(shape), layout, std::move(memory), size);
}

absl::StatusOr<TrainStepResult> Take(v1::TrainStepResponse* response, const Elements& y) {
  TrainStepResult out;
  if (response->has_y() || !y.into.empty()) {
    absl::StatusOr<Tensor> tensor = TakeTensor(response->y(), y);
    if (!tensor.ok()) return tensor.status();
    out.y = *std::move(tensor);
  }
  out.batch_mean = ToVector(response->batch_mean());
  out.batch_var = ToVector(response->batch_var());
  out.version = response->version();
  out.content_hash = std::move(*response->mutable_content_hash());
  out.num_batches_tracked = response->num_batches_tracked();
  out.skipped_channels = ToVector(response->skipped_channels());
  out.replayed = response->replayed();
  return out;
}

absl::StatusOr<InferResult> Take(v1::InferResponse* response, const Elements& y) {
  absl::StatusOr<Tensor> tensor = TakeTensor(response->y(), y);
  if (!tensor.ok()) return tensor.status();
  return InferResult{*std::move(tensor), response->version(), std::move(*response->mutable_content_hash())};
}

absl::StatusOr<InferResult> Take(v1::DenormalizeResponse* response, const Elements& x) {
  absl::StatusOr<Tensor> tensor = TakeTensor(response->x(), x);
  if (!tensor.ok()) return tensor.status();
  return InferResult{*std::move(tensor), response->version(), std::move(*response->mutable_content_hash())};
}

absl::StatusOr<BackwardResult> Take(v1::BackwardResponse* response, const Elements& dx) {
  BackwardResult out;
  if (response->has_dx() || !dx.into.empty()) {
    absl::StatusOr<Tensor> tensor = TakeTensor(response->dx(), dx);
    if (!tensor.ok()) return tensor.status();
    out.dx = *std::move(tensor);
  }
  out.dgamma = ToVector(response->dgamma());
  out.dbeta = ToVector(response->dbeta());
  out.gamma = ToVector(response->gamma());
  out.beta = ToVector(response->beta());
  out.version = response->version();
  out.content_hash = std::move(*response->mutable_content_hash());
  out.replayed = response->replayed();
  return out;
}

MergeMomentsResult Take(v1::MergeMomentsResponse* response) {
  return {.version = response->version(),
          .content_hash = std::move(*response->mutable_content_hash()),
          .running_mean = ToVector(response->running_mean()),
          .running_var = ToVector(response->running_var()),
          .sample_count = ToVector(response->sample_count()),
          .num_batches_tracked = response->num_batches_tracked(),
          .replayed = response->replayed()};
}

}  // namespace normd::internal
