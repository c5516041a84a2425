#include "server/store/record_format.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/layer/content_hash.h"
#include "server/layer/layer_error.h"

static_assert(std::endian::native == std::endian::little, "records are written as they lie in memory");

namespace normd::store {

// Each step can be undone, so that two texts of one length that differ in one word have different sums.
uint64_t Checksum(absl::string_view bytes) {
  uint64_t sum = bytes.size();
  while (!bytes.empty()) {
    uint64_t word = 0;
    const std::size_t size = std::min(bytes.size(), sizeof(word));
    std::memcpy(&word, bytes.data(), size);
    bytes.remove_prefix(size);
    sum = std::rotl((sum ^ word) * 0x9e3779b97f4a7c15, 29);
  }
  return sum;
}

namespace {

// Writer and Reader take the same fields in the same order: the functions below say which, once for both.
class Writer {
 public:
  // `size`: about what comes.
  explicit Writer(std::size_t size) { bytes_.reserve(size); }

  template <typename T>
  void operator()(const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      (*this)(static_cast<int64_t>(value.size()));
      bytes_.append(value);
    } else if constexpr (std::is_same_v<T, absl::Time>) {
      (*this)(absl::ToUnixNanos(value));
    } else if constexpr (std::is_same_v<T, bool>) {
      (*this)(int64_t{value});
    } else {
      static_assert(std::is_arithmetic_v<T> && sizeof(T) == 8);
      bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    }
  }
  template <typename T>
  void operator()(const std::vector<T>& values) {
    static_assert(sizeof(T) == 8);
    (*this)(static_cast<int64_t>(values.size()));
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  template <typename E>
  void Enum(E value, E /*last*/) {
    (*this)(static_cast<int64_t>(value));
  }

  std::string Take() {
    (*this)(Checksum(bytes_));
    return std::move(bytes_);
  }

 private:
  std::string bytes_;
};

// What is missing reads as 0; Finish tells.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) {
    if (bytes.size() < sizeof(uint64_t)) return;
    uint64_t sum = 0;
    bytes_ = bytes.substr(0, bytes.size() - sizeof(sum));
    std::memcpy(&sum, bytes.data() + bytes_.size(), sizeof(sum));
    ok_ = sum == Checksum(bytes_);
  }

  template <typename T>
  void operator()(T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      const std::size_t size = Size(1);
      value.assign(bytes_.data(), size);
      bytes_.remove_prefix(size);
    } else if constexpr (std::is_same_v<T, absl::Time>) {
      value = absl::FromUnixNanos(Word());
    } else if constexpr (std::is_same_v<T, bool>) {
      value = Word() != 0;
    } else {
      value = std::bit_cast<T>(Word());
    }
  }
  template <typename T>
  void operator()(std::vector<T>& values) {
    const std::size_t size = Size(sizeof(T));
    values.resize(size);
    if (size > 0) std::memcpy(values.data(), bytes_.data(), size * sizeof(T));
    bytes_.remove_prefix(size * sizeof(T));
  }
  template <typename E>
  void Enum(E& value, E last) {
    const int64_t number = Word();
    if (number < 0 || number > static_cast<int64_t>(last)) ok_ = false;
    if (ok_) value = static_cast<E>(number);
  }

  bool ok() const { return ok_; }
  // Everything was there, and nothing is left.
  absl::Status Finish(absl::string_view what) const {
    if (ok_ && bytes_.empty()) return absl::OkStatus();
    return absl::DataLossError(absl::StrCat("the stored ", what, " is damaged"));
  }

 private:
  int64_t Word() {
    int64_t word = 0;
    if (bytes_.size() < sizeof(word)) ok_ = false;
    if (!ok_) return 0;
    std::memcpy(&word, bytes_.data(), sizeof(word));
    bytes_.remove_prefix(sizeof(word));
    return word;
  }
  // Of a list of elements of this size.
  std::size_t Size(std::size_t element) {
    const int64_t size = Word();
    if (size < 0 || size > static_cast<int64_t>(bytes_.size() / element)) ok_ = false;
    return ok_ ? static_cast<std::size_t>(size) : 0;
  }

  absl::string_view bytes_;
  bool ok_ = false;
};

// The fields of each kind of record. `archive` is a Writer, and the value const, or a Reader.

template <typename Archive, typename Config>
void Visit(Archive& archive, Config& config, layer::LayerConfig* /*tag*/) {
  archive(config.num_channels);
  archive(config.eps);
  archive.Enum(config.averaging, layer::Averaging::kPooled);
  archive(config.update_weight);
  archive.Enum(config.running_var_estimator, layer::VarianceEstimator::kSample);
  archive.Enum(config.normalize_training_with, layer::TrainingStatistics::kRunningAfterUpdate);
  archive(config.affine);
  archive(config.track_running_stats);
  bool has_clip = config.clip.has_value();
  double clip = config.clip.value_or(0);
  archive(has_clip);
  archive(clip);
  if constexpr (!std::is_const_v<Config>) config.clip = has_clip ? std::optional<double>(clip) : std::nullopt;
  archive.Enum(config.non_finite_policy, layer::NonFinitePolicy::kPropagate);
  archive(config.frozen);
}

template <typename Archive, typename Statistics>
void Visit(Archive& archive, Statistics& statistics, layer::Statistics* /*tag*/) {
  archive(statistics.num_batches_tracked);
  archive(statistics.running_mean);
  archive(statistics.running_var);
  archive(statistics.sample_count);
  archive(statistics.skipped_batches);
}

template <typename Archive, typename Affine>
void Visit(Archive& archive, Affine& affine, layer::Affine* /*tag*/) {
  archive(affine.gamma);
  archive(affine.beta);
}

template <typename Archive, typename Optimizer>
void Visit(Archive& archive, Optimizer& optimizer, layer::OptimizerState* /*tag*/) {
  archive.Enum(optimizer.kind, layer::OptimizerState::Kind::kAdam);
  archive(optimizer.num_steps);
  archive(optimizer.gamma_momentum);
  archive(optimizer.beta_momentum);
  archive(optimizer.gamma_second_moment);
  archive(optimizer.beta_second_moment);
}

void Visit(Writer& writer, const layer::Contributors& contributors, layer::Contributors* /*tag*/) {
  writer(static_cast<int64_t>(contributors.size()));
  contributors.ForEach([&](absl::string_view name, int64_t sequence) {
    writer(std::string(name));
    writer(sequence);
  });
}

void Visit(Reader& reader, layer::Contributors& contributors, layer::Contributors* /*tag*/) {
  int64_t size = 0;
  reader(size);
  std::vector<std::pair<std::string, int64_t>> entries;
  for (int64_t i = 0; i < size && reader.ok(); ++i) {
    std::pair<std::string, int64_t>& entry = entries.emplace_back();
    reader(entry.first);
    reader(entry.second);
  }
  contributors = layer::Contributors::FromSorted(std::move(entries));
}

// A part of a layer, which is shared with other versions.
template <typename Part>
void VisitPart(Writer& writer, const std::shared_ptr<const Part>& part) {
  Visit(writer, *part, static_cast<Part*>(nullptr));
}
template <typename Part>
void VisitPart(Reader& reader, std::shared_ptr<const Part>& part) {
  auto read = std::make_shared<Part>();
  Visit(reader, *read, static_cast<Part*>(nullptr));
  part = std::move(read);
}

template <typename Archive, typename Snapshot>
void VisitSettings(Archive& archive, Snapshot& snapshot) {
  archive(snapshot.name);
  archive(snapshot.uid);
  archive(snapshot.preset);
  archive(snapshot.create_time);
  archive(snapshot.config_version);
  VisitPart(archive, snapshot.config);
}

template <typename Archive, typename Snapshot>
void VisitVersion(Archive& archive, Snapshot& snapshot) {
  archive(snapshot.version);
  archive(snapshot.update_time);
  archive(snapshot.content_hash);
  VisitPart(archive, snapshot.statistics);
}

template <typename Archive, typename Snapshot>
void VisitParameters(Archive& archive, Snapshot& snapshot) {
  archive(snapshot.affine_group);
  VisitPart(archive, snapshot.affine);
  VisitPart(archive, snapshot.optimizer);
}

template <typename Archive, typename Snapshot>
void VisitLayer(Archive& archive, Snapshot& snapshot) {
  VisitSettings(archive, snapshot);
  VisitVersion(archive, snapshot);
  VisitParameters(archive, snapshot);
  VisitPart(archive, snapshot.contributors);
}

template <typename Archive, typename Record>
void VisitRequest(Archive& archive, Record& record) {
  archive(record.sequence);
  archive(record.request_id);
  archive(record.time);
  archive(record.outcome.fingerprint);
  archive(record.outcome.version);
  archive(record.outcome.content_hash);
  archive(record.outcome.num_batches_tracked);
  archive(record.outcome.uid);
}

template <typename Archive, typename Gone>
void VisitGone(Archive& archive, Gone& gone) {
  archive(gone.uid);
  archive(gone.version);
  VisitPart(archive, gone.contributors);
  archive(gone.time);
}

template <typename Archive, typename Info>
void VisitInfo(Archive& archive, Info& info) {
  archive(info.name);
  archive(info.layer);
  archive(info.prefix);
  archive(info.num_layers);
  archive(info.create_time);
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

// Of a layer's statistics, or about of the rest, without counts: 3 numbers for each channel.
std::size_t PartBytes(const layer::LayerSnapshot& snapshot) {
  return 3 * sizeof(double) * static_cast<std::size_t>(snapshot.config->num_channels);
}

// A record of the fields that `visit` gives to a Writer, about `size` bytes.
template <typename Fields>
std::string Encode(std::size_t size, const Fields& visit) {
  Writer writer(size);
  visit(writer);
  return writer.Take();
}

// The way back, with a Reader. DATA_LOSS, naming `what`.
template <typename Fields>
absl::Status Decode(absl::string_view bytes, absl::string_view what, const Fields& visit) {
  Reader reader(bytes);
  visit(reader);
  return reader.Finish(what);
}

}  // namespace

std::string EncodeSettings(const layer::LayerSnapshot& snapshot) {
  return Encode(512, [&](Writer& writer) { VisitSettings(writer, snapshot); });
}

std::string EncodeVersion(const layer::LayerSnapshot& snapshot) {
  return Encode(128 + PartBytes(snapshot), [&](Writer& writer) { VisitVersion(writer, snapshot); });
}

std::string EncodeParameters(const layer::LayerSnapshot& snapshot) {
  return Encode(128 + PartBytes(snapshot), [&](Writer& writer) { VisitParameters(writer, snapshot); });
}

bool ShareSettings(const layer::LayerSnapshot& a, const layer::LayerSnapshot& b) {
  return a.config == b.config && a.config_version == b.config_version && a.preset == b.preset;
}

bool ShareParameters(const layer::LayerSnapshot& a, const layer::LayerSnapshot& b) {
  return a.affine == b.affine && a.optimizer == b.optimizer && a.affine_group == b.affine_group;
}

std::string EncodeLayer(const layer::LayerSnapshot& snapshot) {
  return Encode(1024 + 2 * PartBytes(snapshot), [&](Writer& writer) { VisitLayer(writer, snapshot); });
}

std::string EncodeRequest(const RequestRecord& record) {
  return Encode(256, [&](Writer& writer) { VisitRequest(writer, record); });
}

std::string EncodeGone(const GoneLayer& gone) {
  return Encode(256, [&](Writer& writer) { VisitGone(writer, gone); });
}

std::string EncodeInfo(const SnapshotInfo& info) {
  return Encode(256, [&](Writer& writer) { VisitInfo(writer, info); });
}

int64_t ContributorChecksum(absl::string_view name, int64_t sequence) {
  const absl::string_view number(reinterpret_cast<const char*>(&sequence), sizeof(sequence));
  return static_cast<int64_t>(Checksum(absl::StrCat(number, name)));
}

absl::Status DecodeSettings(absl::string_view bytes, layer::LayerSnapshot* snapshot) {
  return Decode(bytes, "record of settings", [&](Reader& reader) { VisitSettings(reader, *snapshot); });
}

absl::Status DecodeVersion(absl::string_view bytes, layer::LayerSnapshot* snapshot) {
  return Decode(bytes, "record of statistics", [&](Reader& reader) { VisitVersion(reader, *snapshot); });
}

absl::Status DecodeParameters(absl::string_view bytes, layer::LayerSnapshot* snapshot) {
  return Decode(bytes, "record of gamma and beta", [&](Reader& reader) { VisitParameters(reader, *snapshot); });
}

absl::StatusOr<std::shared_ptr<const layer::LayerSnapshot>> DecodeLayer(absl::string_view bytes) {
  auto snapshot = std::make_shared<layer::LayerSnapshot>();
  absl::Status status = Decode(bytes, "layer of a snapshot", [&](Reader& reader) { VisitLayer(reader, *snapshot); });
  if (status.ok()) status = CheckLayer(*snapshot);
  if (!status.ok()) return status;
  return snapshot;
}

absl::StatusOr<RequestRecord> DecodeRequest(absl::string_view bytes) {
  RequestRecord record;
  absl::Status status = Decode(bytes, "record of a request", [&](Reader& reader) { VisitRequest(reader, record); });
  if (!status.ok()) return status;
  return record;
}

absl::StatusOr<GoneLayer> DecodeGone(absl::string_view bytes) {
  GoneLayer gone;
  absl::Status status = Decode(bytes, "record of a deleted layer", [&](Reader& reader) { VisitGone(reader, gone); });
  if (!status.ok()) return status;
  return gone;
}

absl::StatusOr<SnapshotInfo> DecodeInfo(absl::string_view bytes) {
  SnapshotInfo info;
  absl::Status status = Decode(bytes, "record of a snapshot", [&](Reader& reader) { VisitInfo(reader, info); });
  if (!status.ok()) return status;
  return info;
}

absl::Status CheckLayer(const layer::LayerSnapshot& snapshot) {
  if (absl::Status status = CheckLengths(snapshot); !status.ok()) return layer::ForLayer(snapshot.name, status);
  const std::string hash = layer::ContentHash(*snapshot.config, *snapshot.statistics, *snapshot.affine);
  if (hash == snapshot.content_hash) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(layer::LayerPrefix(snapshot.name), "the stored state has the content hash ",
                                          hash, ", not the ", snapshot.content_hash, " of version ", snapshot.version));
}

}  // namespace normd::store
