#include "server/store/sqlite/record_format.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/layer/content_hash.h"
#include "server/layer/layer_error.h"

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
  Writer& AddText(absl::string_view text) {
    Add(static_cast<int64_t>(text.size()));
    bytes_.append(text.data(), text.size());
    return *this;
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

  void ReadText(std::string* text) {
    int64_t size = 0;
    Read(&size);
    if (size < 0 || size > static_cast<int64_t>(bytes_.size())) ok_ = false;
    if (!ok_) return;
    text->assign(bytes_.data(), static_cast<std::size_t>(size));
    bytes_.remove_prefix(static_cast<std::size_t>(size));
  }
  // A text that `decode` makes a part of a layer of.
  template <typename T>
  void ReadPart(absl::StatusOr<T> (*decode)(absl::string_view), std::shared_ptr<const T>* part) {
    std::string bytes;
    ReadText(&bytes);
    absl::StatusOr<T> decoded = decode(bytes);
    if (!decoded.ok()) ok_ = false;
    if (ok_) *part = std::make_shared<T>(*std::move(decoded));
  }
  bool ok() const { return ok_; }

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

absl::Status CheckLengths(const layer::LayerSnapshot& snapshot) {
  const auto channels = static_cast<std::size_t>(snapshot.config->num_channels);
  const std::size_t tracked = snapshot.config->track_running_stats ? channels : 0;
  const std::size_t affine = snapshot.config->affine ? channels : 0;
  const layer::Statistics& statistics = *snapshot.statistics;
  const bool fit = statistics.running_mean.size() == tracked && statistics.running_var.size() == tracked &&
                   statistics.sample_count.size() == tracked &&
                   (statistics.skipped_batches.empty() || statistics.skipped_batches.size() == tracked) &&
                   snapshot.affine->gamma.size() == affine && snapshot.affine->beta.size() == affine;
  return fit ? absl::OkStatus() : absl::DataLossError("the stored lists do not have one entry per channel");
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
      .AddFlag(config.frozen)
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
  reader.ReadFlag(&config.frozen);
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

std::string Encode(const layer::Contributors& contributors) {
  Writer writer;
  writer.Add(static_cast<int64_t>(contributors.size()));
  contributors.ForEach([&](absl::string_view name, int64_t sequence) { writer.AddText(name).Add(sequence); });
  return writer.Take();
}

absl::StatusOr<layer::Contributors> DecodeContributors(absl::string_view bytes) {
  Reader reader(bytes);
  int64_t size = 0;
  reader.Read(&size);
  std::vector<std::pair<std::string, int64_t>> entries;
  for (int64_t i = 0; i < size && reader.ok(); ++i) {
    std::pair<std::string, int64_t>& entry = entries.emplace_back();
    reader.ReadText(&entry.first);
    reader.Read(&entry.second);
  }
  return Finished(reader, "contributors", layer::Contributors::FromSorted(std::move(entries)));
}

std::string Encode(const layer::LayerSnapshot& snapshot) {
  return Writer()
      .AddText(snapshot.name)
      .AddText(snapshot.uid)
      .AddText(snapshot.preset)
      .AddText(snapshot.affine_group)
      .AddText(snapshot.content_hash)
      .Add(snapshot.version)
      .Add(snapshot.config_version)
      .Add(absl::ToUnixNanos(snapshot.create_time))
      .Add(absl::ToUnixNanos(snapshot.update_time))
      .AddText(Encode(*snapshot.config))
      .AddText(Encode(*snapshot.statistics))
      .AddText(Encode(*snapshot.affine))
      .AddText(Encode(*snapshot.optimizer))
      .AddText(Encode(*snapshot.contributors))
      .Take();
}

absl::StatusOr<std::shared_ptr<const layer::LayerSnapshot>> DecodeLayer(absl::string_view bytes) {
  Reader reader(bytes);
  auto snapshot = std::make_shared<layer::LayerSnapshot>();
  int64_t create_time = 0;
  int64_t update_time = 0;
  reader.ReadText(&snapshot->name);
  reader.ReadText(&snapshot->uid);
  reader.ReadText(&snapshot->preset);
  reader.ReadText(&snapshot->affine_group);
  reader.ReadText(&snapshot->content_hash);
  reader.Read(&snapshot->version);
  reader.Read(&snapshot->config_version);
  reader.Read(&create_time);
  reader.Read(&update_time);
  reader.ReadPart(&DecodeConfig, &snapshot->config);
  reader.ReadPart(&DecodeStatistics, &snapshot->statistics);
  reader.ReadPart(&DecodeAffine, &snapshot->affine);
  reader.ReadPart(&DecodeOptimizer, &snapshot->optimizer);
  reader.ReadPart(&DecodeContributors, &snapshot->contributors);
  if (absl::Status status = reader.Finish("layer"); !status.ok()) return status;
  snapshot->create_time = absl::FromUnixNanos(create_time);
  snapshot->update_time = absl::FromUnixNanos(update_time);
  if (absl::Status status = CheckLayer(*snapshot); !status.ok()) return status;
  return snapshot;
}

absl::Status CheckLayer(const layer::LayerSnapshot& snapshot) {
  if (absl::Status status = CheckLengths(snapshot); !status.ok()) return layer::ForLayer(snapshot.name, status);
  const std::string hash = layer::ContentHash(*snapshot.config, *snapshot.statistics, *snapshot.affine);
  if (hash == snapshot.content_hash) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(layer::LayerPrefix(snapshot.name), "the stored state has the content hash ",
                                          hash, ", not the ", snapshot.content_hash, " of version ", snapshot.version));
}

}  // namespace normd::store
