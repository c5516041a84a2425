#include "server/registry/layer_registry.h"

#include <algorithm>
#include <utility>

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
      .Add(config.non_finite_policy)
      .Add(config.frozen);
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

// The group of layers with which this one shares gamma and beta; if it has none yet, it gets one.
absl::StatusOr<std::string> ShareAffine(const std::shared_ptr<LayerEntry>& source, bool shared_store,
                                        LayerDirectory::LifecycleChange* change) {
  const LayerRegistry::SnapshotPtr newest = source->Snapshot();
  if (!newest->config->affine) {
    return absl::InvalidArgumentError(
        absl::StrCat(layer::LayerPrefix(newest->name), "has no gamma and beta (affine is false) to share"));
  }
  if (!newest->affine_group.empty() && !shared_store) return newest->affine_group;
  absl::StatusOr<LayerEntry::Plan> plan = source->PrepareAlone("", 0, [](LayerSnapshot& next) {
    if (next.affine_group.empty()) {
      next.affine_group = base::NewUid();
    } else {
      // A new version, though it is the same: a server that has not heard of the new member changes the others, and
      // finds that this one is not what it was.
      next.affine = std::make_shared<layer::Affine>(*next.affine);
    }
    return absl::OkStatus();
  });
  if (!plan.ok()) return plan.status();
  change->changed.push_back({source, plan->update});
  return plan->update.put->affine_group;
}

// Turns a copy of a layer into a new one.
void MakeItsOwn(const ForkSpec& spec, absl::Time now, LayerSnapshot* fork) {
  fork->name = spec.new_name;
  fork->uid = base::NewUid();
  if (fork->config->frozen) {
    auto config = std::make_shared<layer::LayerConfig>(*fork->config);
    config->frozen = false;
    fork->config = std::move(config);
  }
  if (spec.reset_statistics && fork->config->track_running_stats) {
    fork->statistics = std::make_shared<layer::Statistics>(layer::Statistics::Initial(*fork->config));
    fork->content_hash = layer::ContentHash(*fork->config, *fork->statistics, *fork->affine);
  }
  fork->contributors = std::make_shared<layer::Contributors>();
  fork->version = 1;
  fork->config_version = 1;
  fork->create_time = now;
  fork->update_time = now;
}

// Waits until it is stored, and makes it again as often as another server was faster.
absl::StatusOr<LayerRegistry::SnapshotPtr> CommitAndWait(LayerEntry* entry, absl::string_view request_id,
                                                         uint64_t fingerprint,
                                                         absl::FunctionRef<absl::Status(LayerSnapshot&)> change) {
  while (true) {
    absl::StatusOr<LayerEntry::CommitResult> result = entry->Commit(request_id, fingerprint, change);
    if (!result.ok()) return result.status();
    const absl::Status status = WaitFor(result->stored);
    if (store::IsConflict(status)) continue;
    if (!status.ok()) return status;
    return std::move(result->snapshot);
  }
}

}  // namespace

LayerRegistry::LayerRegistry(const RegistryOptions& options, const base::Clock& clock, store::StateStore* store)
    : options_(options), directory_(options.requests, options.versions, clock, store) {}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::Make(
    const std::string& name, const std::string& request_id, uint64_t fingerprint, LayerDirectory::Scope scope,
    absl::FunctionRef<absl::StatusOr<SnapshotPtr>(LayerDirectory::LifecycleChange*)> first) {
  SnapshotPtr made;
  absl::StatusOr<LayerDirectory::LifecycleResult> result =
      directory_.Change(layer::LayerPrefix(name), request_id, fingerprint, scope,
                        [&](LayerDirectory::LifecycleChange* change) -> absl::Status {
                          const std::string prefix = layer::LayerPrefix(name);
                          if (directory_.Find(name).ok())
                            return absl::AlreadyExistsError(absl::StrCat(prefix, "exists already"));
                          if (size() >= options_.max_layers) {
                            return absl::ResourceExhaustedError(absl::StrCat(
                                prefix, "the server holds ", options_.max_layers, " layers, which is its limit"));
                          }
                          absl::StatusOr<SnapshotPtr> snapshot = first(change);
                          if (!snapshot.ok()) return snapshot.status();
                          made = *std::move(snapshot);
                          change->made.push_back({.first = made, .requests = {}});
                          change->outcome = {.version = made->version,
                                             .content_hash = made->content_hash,
                                             .num_batches_tracked = made->statistics->num_batches_tracked,
                                             .uid = made->uid};
                          return absl::OkStatus();
                        });
  if (!result.ok()) return result.status();
  if (!result->replayed) return made;
  absl::StatusOr<std::shared_ptr<LayerEntry>> existing = Find(name);
  if (existing.ok()) {
    SnapshotPtr snapshot = (*existing)->Snapshot();
    if (snapshot->uid == result->outcome.uid) return snapshot;
  }
  return absl::NotFoundError(absl::StrCat(layer::LayerPrefix(name), "was created by request_id '", request_id,
                                          "' before and has been deleted since"));
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::Create(const CreateLayerSpec& spec) {
  absl::Status status = CheckRequest(spec.name, spec.request_id);
  if (!status.ok()) return status;
  status = layer::ValidateConfig(spec.config, options_.max_channels);
  if (status.ok()) status = layer::ValidateStateUpdate(spec.config, spec.initial_state);
  if (!status.ok()) return layer::ForLayer(spec.name, status);

  return Make(spec.name, spec.request_id, FingerprintOf(spec), LayerDirectory::Scope::kBeside,
              [&](LayerDirectory::LifecycleChange*) { return FirstSnapshot(spec, directory_.Now()); });
}

absl::StatusOr<std::shared_ptr<LayerEntry>> LayerRegistry::Find(absl::string_view name) const {
  absl::StatusOr<std::shared_ptr<LayerEntry>> found = directory_.Find(name);
  if (found.status().code() != absl::StatusCode::kNotFound || !committer()->shared()) return found;
  // If Redis does not say, what is known counts, as for those that are found.
  directory_.Follow().IgnoreError();
  return directory_.Find(name);
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::Get(absl::string_view name, int64_t version) const {
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = Find(name);
  if (!entry.ok()) return entry.status();
  return (*entry)->SnapshotAt(version);
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

  return CommitAndWait(entry->get(), request_id, fingerprint, [&](LayerSnapshot& next) -> absl::Status {
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
  });
}

absl::Status LayerRegistry::Delete(absl::string_view name, absl::string_view etag, absl::string_view request_id) {
  absl::Status status = CheckRequest(name, request_id);
  if (!status.ok()) return status;
  const uint64_t fingerprint = Fingerprint("Delete").AddBytes(name).AddBytes(etag).value();

  // Waiting for the layer's running commit holds no other layer up, unless they share something.
  const auto scope = [&] {
    const absl::StatusOr<std::shared_ptr<LayerEntry>> any = directory_.Find(name);
    const bool shares = any.ok() && !(*any)->Snapshot()->affine_group.empty();
    return shares ? LayerDirectory::Scope::kAlone : LayerDirectory::Scope::kBeside;
  };
  return directory_
      .Change(layer::LayerPrefix(name), request_id, fingerprint, scope,
              [&](LayerDirectory::LifecycleChange* change) -> absl::Status {
                absl::StatusOr<std::shared_ptr<LayerEntry>> entry = directory_.Find(name);
                if (!entry.ok()) return entry.status();
                // From here on nobody sees the layer.
                absl::Status ended =
                    (*entry)->MarkDeleted([&](const LayerSnapshot& newest) { return CheckEtag(newest, etag); });
                if (ended.ok()) change->gone.push_back(*std::move(entry));
                return ended;
              })
      .status();
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::ResetStatistics(absl::string_view name,
                                                                          int64_t expected_version,
                                                                          absl::string_view request_id) {
  if (absl::Status status = CheckRequest(name, request_id); !status.ok()) return status;
  absl::StatusOr<std::shared_ptr<LayerEntry>> entry = Find(name);
  if (!entry.ok()) return entry.status();
  const uint64_t fingerprint = Fingerprint("ResetStatistics").Add(expected_version).value();
  return CommitAndWait(entry->get(), request_id, fingerprint, [&](LayerSnapshot& next) -> absl::Status {
    if (absl::Status stale = CheckExpectedVersion(next, expected_version); !stale.ok()) return stale;
    // Nothing to set back is no error: a caller may reset all layers of a model alike.
    if (!next.config->track_running_stats) return absl::OkStatus();
    next.statistics = std::make_shared<layer::Statistics>(layer::Statistics::Initial(*next.config));
    return absl::OkStatus();
  });
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
  return CommitAndWait(entry->get(), request_id, fingerprint, [&](LayerSnapshot& next) -> absl::Status {
    if (absl::Status stale = CheckExpectedVersion(next, expected_version); !stale.ok()) return stale;
    Overwrite(update, &next);
    return absl::OkStatus();
  });
}

absl::StatusOr<LayerRegistry::SnapshotPtr> LayerRegistry::Fork(const ForkSpec& spec) {
  for (const std::string& name : {spec.name, spec.new_name}) {
    if (absl::Status status = CheckRequest(name, spec.request_id); !status.ok()) return status;
  }
  if (spec.share_affine && spec.version != 0) {
    return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(spec.name), "version is ", spec.version,
                                                   ", want none with share_affine: what is shared is the newest"));
  }
  const uint64_t fingerprint = Fingerprint("Fork")
                                   .AddBytes(spec.name)
                                   .AddBytes(spec.new_name)
                                   .Add(spec.version)
                                   .Add(spec.share_affine)
                                   .Add(spec.reset_statistics)
                                   .value();
  return Make(spec.new_name, spec.request_id, fingerprint,
              spec.share_affine ? LayerDirectory::Scope::kAlone : LayerDirectory::Scope::kBeside,
              [&](LayerDirectory::LifecycleChange* change) -> absl::StatusOr<SnapshotPtr> {
                absl::StatusOr<std::shared_ptr<LayerEntry>> source = directory_.Find(spec.name);
                if (!source.ok()) return source.status();
                absl::StatusOr<SnapshotPtr> version = (*source)->SnapshotAt(spec.version);
                if (!version.ok()) return version.status();
                auto fork = std::make_shared<LayerSnapshot>(**version);
                if (spec.share_affine) {
                  absl::StatusOr<std::string> group = ShareAffine(*source, committer()->shared(), change);
                  if (!group.ok()) return group.status();
                  fork->affine_group = *std::move(group);
                } else {
                  fork->affine_group.clear();
                }
                MakeItsOwn(spec, directory_.Now(), fork.get());
                return fork;
              });
}

}  // namespace normd::registry
