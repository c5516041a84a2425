#include "server/registry/layer_registry.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/uid.h"
#include "server/layer/content_hash.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/layer/presets.h"
#include "server/registry/config_update.h"
#include "server/registry/fingerprint.h"
#include "server/registry/layer_entry.h"
#include "server/registry/version_pin.h"

namespace normd::registry {
namespace {

using layer::LayerSnapshot;

// Asks of every mutation: a usable name and request_id.
absl::Status CheckRequest(absl::string_view name, absl::string_view request_id) {
  if (absl::Status status = layer::ValidateName(name); !status.ok()) return status;
  return layer::ForLayer(name, layer::ValidateRequestId(request_id));
}

absl::Status DoesNotExist(absl::string_view name) {
  return absl::NotFoundError(absl::StrCat(layer::LayerPrefix(name), "does not exist"));
}

void AddState(const layer::StateUpdate& state, Fingerprint* fingerprint) {
  fingerprint->AddList<double>(state.running_mean)
      .AddList<double>(state.running_var)
      .AddList<double>(state.sample_count)
      .Add(state.num_batches_tracked)
      .AddList<int64_t>(state.skipped_batches)
      .AddList<double>(state.gamma)
      .AddList<double>(state.beta)
      .Add(state.reset_optimizer);
}

void AddConfig(const layer::LayerConfig& config, Fingerprint* fingerprint) {
  fingerprint->Add(config.num_channels)
      .Add(config.eps)
      .Add(config.averaging)
      .Add(config.update_weight)
      .Add(config.running_var_estimator)
      .Add(config.normalize_training_with)
      .Add(config.affine)
      .Add(config.track_running_stats)
      .Add(config.clip.has_value())
      .Add(config.clip.value_or(0))
      .Add(config.non_finite_policy);
}

uint64_t FingerprintOf(const CreateLayerSpec& spec) {
  Fingerprint fingerprint("Create");
  fingerprint.AddBytes(spec.name).AddBytes(spec.preset);
  AddConfig(spec.config, &fingerprint);
  AddState(spec.initial_state, &fingerprint);
  return fingerprint.value();
}

// Takes over what a validated `update` sets.
void Overwrite(const layer::StateUpdate& update, LayerSnapshot* snapshot) {
  if (update.SetsStatistics()) {
    auto statistics = std::make_shared<layer::Statistics>();
    statistics->running_mean = update.running_mean;
    statistics->running_var = update.running_var;
    statistics->sample_count = update.sample_count;
    statistics->sample_count.resize(update.running_mean.size());
    statistics->num_batches_tracked = update.num_batches_tracked;
    // Without a channel that sat out the list stays empty.
    if (std::any_of(update.skipped_batches.begin(), update.skipped_batches.end(), [](int64_t n) { return n != 0; })) {
      statistics->skipped_batches = update.skipped_batches;
    }
    snapshot->statistics = std::move(statistics);
  }
  if (update.SetsAffine()) {
    snapshot->affine = std::make_shared<layer::Affine>(layer::Affine{.gamma = update.gamma, .beta = update.beta});
  }
  if (update.reset_optimizer) snapshot->optimizer = std::make_shared<layer::OptimizerState>();
}

std::shared_ptr<const LayerSnapshot> FirstSnapshot(const CreateLayerSpec& spec, absl::Time now) {
  auto snapshot = std::make_shared<LayerSnapshot>();
  snapshot->name = spec.name;
  snapshot->uid = base::NewUid();
  snapshot->preset = spec.preset;
  if (spec.preset.empty()) snapshot->preset.assign(layer::kDefaultPreset.data(), layer::kDefaultPreset.size());
  snapshot->config = std::make_shared<layer::LayerConfig>(spec.config);
  snapshot->statistics = std::make_shared<layer::Statistics>(layer::Statistics::Initial(spec.config));
  snapshot->affine = std::make_shared<layer::Affine>(layer::Affine::Initial(spec.config));
  snapshot->optimizer = std::make_shared<layer::OptimizerState>();
  snapshot->contributors = std::make_shared<layer::Contributors>();
  Overwrite(spec.initial_state, snapshot.get());
  snapshot->content_hash = layer::ContentHash(*snapshot->config, *snapshot->statistics, *snapshot->affine);
  snapshot->create_time = now;
  snapshot->update_time = now;
  return snapshot;
}

absl::StatusOr<LayerRegistry::SnapshotPtr> SnapshotOf(absl::StatusOr<LayerEntry::CommitResult> result) {
  if (!result.ok()) return result.status();
  if (absl::Status status = WaitFor(result->stored); !status.ok()) return status;
  return std::move(result->snapshot);
}

}  // namespace

LayerRegistry::LayerRegistry(const RegistryOptions& options, const base::Clock& clock, store::StateStore* store)
    : options_(options),
      store_(store),
      requests_(options.requests, &clock, &remembered_requests_),
      committer_(store),
      context_{&clock, &committer_, options.requests, &remembered_requests_} {}

LayerRegistry::~LayerRegistry() = default;

absl::Status LayerRegistry::Load() {
  const base::MutexLock lifecycle_lock(&lifecycle_mutex_);
  absl::flat_hash_map<std::string, LayerEntry*> by_uid;
  return store_->Load(
      [&](SnapshotPtr snapshot) {
        const std::string name = snapshot->name;
        const std::string uid = snapshot->uid;
        auto entry = std::make_shared<LayerEntry>(std::move(snapshot), context_);
        by_uid[uid] = entry.get();
        const base::MutexLock lock(&mutex_);
        layers_.emplace(name, std::move(entry));
        return absl::OkStatus();
      },
      [&](const store::RequestRecord& record) ABSL_NO_THREAD_SAFETY_ANALYSIS {
        const auto found = by_uid.find(record.layer_uid);
        if (found != by_uid.end()) {
          found->second->RestoreRequest(record);
        } else {
          requests_.Restore(record);
        }
        return absl::OkStatus();
      });
}

absl::Status LayerRegistry::StoreLifecycle(store::Update update) {
  absl::StatusOr<PendingCommitPtr> pending = committer_.Submit({nullptr, update});
  if (!pending.ok()) return pending.status();
  committer_.Drive();
  if (absl::Status status = WaitFor(*pending); !status.ok()) return status;
  requests_.Record(update);
  return absl::OkStatus();
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::Create(const CreateLayerSpec& spec) {
  absl::Status status = CheckRequest(spec.name, spec.request_id);
  if (!status.ok()) return status;
  status = layer::ValidateConfig(spec.config, options_.max_channels);
  if (status.ok()) status = layer::ValidateStateUpdate(spec.config, spec.initial_state);
  if (!status.ok()) return layer::ForLayer(spec.name, status);

  const uint64_t fingerprint = FingerprintOf(spec);

  const base::MutexLock lifecycle_lock(&lifecycle_mutex_);
  absl::StatusOr<const RequestLog::Outcome*> known = requests_.Find(spec.request_id, fingerprint);
  if (!known.ok()) return layer::ForLayer(spec.name, known.status());
  absl::StatusOr<std::shared_ptr<LayerEntry>> existing = Find(spec.name);
  if (*known != nullptr) {
    if (existing.ok()) {
      SnapshotPtr snapshot = (*existing)->Snapshot();
      if (snapshot->uid == (*known)->uid) return snapshot;
    }
    return absl::NotFoundError(absl::StrCat(layer::LayerPrefix(spec.name), "was created by request_id '",
                                            spec.request_id, "' before and has been deleted since"));
  }
  if (existing.ok()) {
    return absl::AlreadyExistsError(absl::StrCat(layer::LayerPrefix(spec.name), "exists already"));
  }
  if (size() >= options_.max_layers) {
    return absl::ResourceExhaustedError(absl::StrCat(layer::LayerPrefix(spec.name), "the server holds ",
                                                     options_.max_layers, " layers, which is its limit"));
  }

  SnapshotPtr first = FirstSnapshot(spec, context_.clock->Now());
  store::Update update;
  update.put = first;
  requests_.Prepare("", spec.request_id,
                    {.fingerprint = fingerprint,
                     .version = first->version,
                     .content_hash = first->content_hash,
                     .num_batches_tracked = first->statistics->num_batches_tracked,
                     .uid = first->uid},
                    &update);
  if (absl::Status stored = StoreLifecycle(std::move(update)); !stored.ok()) return stored;
  auto entry = std::make_shared<LayerEntry>(first, context_);
  const base::MutexLock lock(&mutex_);
  layers_.emplace(spec.name, std::move(entry));
  return first;
}

absl::StatusOr<std::shared_ptr<LayerEntry>> LayerRegistry::Find(absl::string_view name) const {
  {
    const base::ReaderMutexLock lock(&mutex_);
    const auto found = layers_.find(name);
    if (found != layers_.end() && !found->second->IsDeleted()) return found->second;
  }
  // A name that cannot exist gets the more helpful answer.
  if (absl::Status status = layer::ValidateName(name); !status.ok()) return status;
  return DoesNotExist(name);
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::Get(absl::string_view name) const {
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = Find(name);
  if (!entry.ok()) return entry.status();
  return (*entry)->Snapshot();
}

ListPage LayerRegistry::List(absl::string_view prefix, absl::string_view after, int page_size) const {
  ListPage page;
  const auto limit = static_cast<size_t>(std::max(page_size, 1));
  const base::ReaderMutexLock lock(&mutex_);
  auto it = after < prefix ? layers_.lower_bound(prefix) : layers_.upper_bound(after);
  for (; it != layers_.end() && absl::StartsWith(it->first, prefix); ++it) {
    if (it->second->IsDeleted()) continue;
    if (page.layers.size() == limit) {
      page.last_name = page.layers.back()->name;
      break;
    }
    page.layers.push_back(it->second->Snapshot());
  }
  return page;
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::Update(absl::string_view name, const ConfigUpdate& update,
                                                                 absl::string_view etag, absl::string_view request_id) {
  absl::Status status = CheckRequest(name, request_id);
  if (!status.ok()) return status;
  status = CheckUpdateFields(update.fields);
  if (!status.ok()) return layer::ForLayer(name, status);
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = Find(name);
  if (!entry.ok()) return entry.status();

  // Only what the mask names is part of the request.
  layer::LayerConfig named_values;
  TakeOverFields(update, &named_values);
  Fingerprint content("Update");
  AddConfig(named_values, &content);
  for (const std::string& field : update.fields) content.AddBytes(field);
  const uint64_t fingerprint = content.AddBytes(etag).value();

  return SnapshotOf((*entry)->Commit(request_id, fingerprint, [&](LayerSnapshot& next) -> absl::Status {
    if (absl::Status stale = CheckEtag(next, etag); !stale.ok()) return stale;
    layer::LayerConfig config = *next.config;
    absl::Status invalid = CheckFieldsApply(update, config);
    TakeOverFields(update, &config);
    if (invalid.ok()) invalid = layer::ValidateConfig(config, options_.max_channels);
    if (!invalid.ok()) return layer::ForLayer(name, invalid);
    if (config == *next.config) return absl::OkStatus();
    next.config = std::make_shared<layer::LayerConfig>(config);
    next.config_version += 1;
    return absl::OkStatus();
  }));
}

absl::Status LayerRegistry::Delete(absl::string_view name, absl::string_view etag, absl::string_view request_id) {
  absl::Status status = CheckRequest(name, request_id);
  if (!status.ok()) return status;
  const uint64_t fingerprint = Fingerprint("Delete").AddBytes(name).AddBytes(etag).value();

  const base::MutexLock lifecycle_lock(&lifecycle_mutex_);
  absl::StatusOr<const RequestLog::Outcome*> known = requests_.Find(request_id, fingerprint);
  if (!known.ok()) return layer::ForLayer(name, known.status());
  if (*known != nullptr) return absl::OkStatus();
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = Find(name);
  if (!entry.ok()) return entry.status();
  // From here on nobody sees the layer; waiting for its running commit holds no other layer up.
  status = (*entry)->MarkDeleted([&](const LayerSnapshot& newest) { return CheckEtag(newest, etag); });
  if (!status.ok()) return status;
  // Behind the layer's own changes that still wait.
  store::Update update;
  update.remove = (*entry)->Snapshot()->uid;
  requests_.Prepare("", request_id, {.fingerprint = fingerprint, .content_hash = "", .uid = ""}, &update);
  status = StoreLifecycle(std::move(update));
  if (!status.ok()) {
    (*entry)->KeepAfterAll();
    return status;
  }
  const base::MutexLock lock(&mutex_);
  layers_.erase(layers_.find(name));
  return absl::OkStatus();
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::ResetStatistics(absl::string_view name,
                                                                          int64_t expected_version,
                                                                          absl::string_view request_id) {
  if (absl::Status status = CheckRequest(name, request_id); !status.ok()) return status;
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = Find(name);
  if (!entry.ok()) return entry.status();
  const uint64_t fingerprint = Fingerprint("ResetStatistics").Add(expected_version).value();
  return SnapshotOf((*entry)->Commit(request_id, fingerprint, [&](LayerSnapshot& next) -> absl::Status {
    if (absl::Status stale = CheckExpectedVersion(next, expected_version); !stale.ok()) return stale;
    // Nothing to set back is no error: a caller may reset all layers of a model alike.
    if (!next.config->track_running_stats) return absl::OkStatus();
    next.statistics = std::make_shared<layer::Statistics>(layer::Statistics::Initial(*next.config));
    return absl::OkStatus();
  }));
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::SetState(absl::string_view name,
                                                                   const layer::StateUpdate& update,
                                                                   int64_t expected_version,
                                                                   absl::string_view request_id) {
  if (absl::Status status = CheckRequest(name, request_id); !status.ok()) return status;
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = Find(name);
  if (!entry.ok()) return entry.status();
  // What the checks look at never changes after Create.
  const SnapshotPtr any_version = (*entry)->Snapshot();
  if (absl::Status invalid = layer::ValidateStateUpdate(*any_version->config, update); !invalid.ok()) {
    return layer::ForLayer(name, invalid);
  }
  if (!update.SetsStatistics() && !update.SetsAffine() && !update.reset_optimizer) {
    return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(name),
                                                   "the state is empty, want statistics, gamma and beta, or "
                                                   "reset_optimizer"));
  }
  Fingerprint content("SetState");
  content.Add(expected_version);
  AddState(update, &content);
  const uint64_t fingerprint = content.value();
  return SnapshotOf((*entry)->Commit(request_id, fingerprint, [&](LayerSnapshot& next) -> absl::Status {
    if (absl::Status stale = CheckExpectedVersion(next, expected_version); !stale.ok()) return stale;
    Overwrite(update, &next);
    return absl::OkStatus();
  }));
}

int64_t LayerRegistry::size() const {
  const base::ReaderMutexLock lock(&mutex_);
  return static_cast<int64_t>(layers_.size());
}

}  // namespace normd::registry
