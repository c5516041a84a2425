#include "server/store/sqlite/record_format.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

static_assert(std::endian::native == std::endian::little, "records are written as they lie in memory");

namespace normd::store {
namespace {

class Writer {
 public:
  template <typename T>
  Writer& Add(T value) {
    static_assert(sizeof(T) == 8);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  template <typename E>
  Writer& AddEnum(E value) {
    static_assert(std::is_enum_v<E>);
    return Add(static_cast<int64_t>(value));
  }
  Writer& AddFlag(bool value) { return Add(int64_t{value}); }
  template <typename T>
  Writer& AddList(const std::vector<T>& values) {
    static_assert(sizeof(T) == 8);
    Add(static_cast<int64_t>(values.size()));
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    return *this;
  }

  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads what Writer wrote. What is missing reads as 0; ok() tells.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  void Read(T* value) {
    static_assert(sizeof(T) == 8);
    *value = {};
    if (!Has(sizeof(T))) return;
    std::memcpy(value, bytes_.data(), sizeof(T));
    bytes_.remove_prefix(sizeof(T));
  }
  // `last`: the largest value.
  template <typename E>
  void ReadEnum(E last, E* value) {
    int64_t number = 0;
    Read(&number);
    if (number < 0 || number > static_cast<int64_t>(last)) ok_ = false;
    if (ok_) *value = static_cast<E>(number);
  }
  void ReadFlag(bool* value) {
    int64_t number = 0;
    Read(&number);
    *value = number != 0;
  }
  template <typename T>
  void ReadList(std::vector<T>* values) {
    int64_t size = 0;
    Read(&size);
    if (size < 0 || size > static_cast<int64_t>(bytes_.size() / sizeof(T))) ok_ = false;
    if (!ok_) return;
    values->resize(static_cast<std::size_t>(size));
    if (values->empty()) return;
    std::memcpy(values->data(), bytes_.data(), values->size() * sizeof(T));
    bytes_.remove_prefix(values->size() * sizeof(T));
  }

  // Everything was there, and nothing is left.
  absl::Status Finish(absl::string_view what) const {
    if (ok_ && bytes_.empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("the stored ", what, " cannot be read"));
  }

 private:
  bool Has(std::size_t size) {
    if (bytes_.size() < size) ok_ = false;
    return ok_;
  }

  absl::string_view bytes_;
  bool ok_ = true;
};

template <typename T>
absl::StatusOr<T> Finished(const Reader& reader, absl::string_view what, T value) {
  if (absl::Status status = reader.Finish(what); !status.ok()) return status;
  return value;
}

}  // namespace

std::string Encode(const layer::LayerConfig& config) {
  return Writer()
      .Add(config.num_channels)
      .Add(config.eps)
      .AddEnum(config.averaging)
      .Add(config.update_weight)
      .AddEnum(config.running_var_estimator)
      .AddEnum(config.normalize_training_with)
      .AddFlag(config.affine)
      .AddFlag(config.track_running_stats)
      .AddFlag(config.clip.has_value())
      .Add(config.clip.value_or(0))
      .AddEnum(config.non_finite_policy)
      .Take();
}

absl::StatusOr<layer::LayerConfig> DecodeConfig(absl::string_view bytes) {
  Reader reader(bytes);
  layer::LayerConfig config;
  bool has_clip = false;
  double clip = 0;
  reader.Read(&config.num_channels);
  reader.Read(&config.eps);
  reader.ReadEnum(layer::Averaging::kPooled, &config.averaging);
  reader.Read(&config.update_weight);
  reader.ReadEnum(layer::VarianceEstimator::kSample, &config.running_var_estimator);
  reader.ReadEnum(layer::TrainingStatistics::kRunningAfterUpdate, &config.normalize_training_with);
  reader.ReadFlag(&config.affine);
  reader.ReadFlag(&config.track_running_stats);
  reader.ReadFlag(&has_clip);
  reader.Read(&clip);
  reader.ReadEnum(layer::NonFinitePolicy::kPropagate, &config.non_finite_policy);
  if (has_clip) config.clip = clip;
  return Finished(reader, "settings", config);
}

std::string Encode(const layer::Statistics& statistics) {
  return Writer()
      .Add(statistics.num_batches_tracked)
      .AddList(statistics.running_mean)
      .AddList(statistics.running_var)
      .AddList(statistics.sample_count)
      .AddList(statistics.skipped_batches)
      .Take();
}

absl::StatusOr<layer::Statistics> DecodeStatistics(absl::string_view bytes) {
  Reader reader(bytes);
  layer::Statistics statistics;
  reader.Read(&statistics.num_batches_tracked);
  reader.ReadList(&statistics.running_mean);
  reader.ReadList(&statistics.running_var);
  reader.ReadList(&statistics.sample_count);
  reader.ReadList(&statistics.skipped_batches);
  return Finished(reader, "statistics", std::move(statistics));
}

std::string Encode(const layer::Affine& affine) { return Writer().AddList(affine.gamma).AddList(affine.beta).Take(); }

absl::StatusOr<layer::Affine> DecodeAffine(absl::string_view bytes) {
  Reader reader(bytes);
  layer::Affine affine;
  reader.ReadList(&affine.gamma);
  reader.ReadList(&affine.beta);
  return Finished(reader, "gamma and beta", std::move(affine));
}

std::string Encode(const layer::OptimizerState& optimizer) {
  return Writer()
      .AddEnum(optimizer.kind)
      .Add(optimizer.num_steps)
      .AddList(optimizer.gamma_momentum)
      .AddList(optimizer.beta_momentum)
      .AddList(optimizer.gamma_second_moment)
      .AddList(optimizer.beta_second_moment)
      .Take();
}

absl::StatusOr<layer::OptimizerState> DecodeOptimizer(absl::string_view bytes) {
  Reader reader(bytes);
  layer::OptimizerState optimizer;
  reader.ReadEnum(layer::OptimizerState::Kind::kAdam, &optimizer.kind);
  reader.Read(&optimizer.num_steps);
  reader.ReadList(&optimizer.gamma_momentum);
  reader.ReadList(&optimizer.beta_momentum);
  reader.ReadList(&optimizer.gamma_second_moment);
  reader.ReadList(&optimizer.beta_second_moment);
  return Finished(reader, "optimizer state", std::move(optimizer));
}

}  // namespace normd::store
