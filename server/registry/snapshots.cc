#include "server/registry/snapshots.h"

#include <algorithm>
#include <climits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/uid.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/registry/fingerprint.h"
#include "server/store/open_store.h"

namespace normd::registry {
namespace {

using layer::LayerSnapshot;
using SnapshotPtr = LayerRegistry::SnapshotPtr;

std::string Subject(absl::string_view name) { return absl::StrCat("snapshot '", name, "': "); }

absl::Status CheckRequest(absl::string_view name, absl::string_view request_id) {
  absl::Status status = layer::WithPrefix("snapshot: ", layer::ValidateName(name));
  if (!status.ok()) return status;
  return layer::WithPrefix(Subject(name), layer::ValidateRequestId(request_id));
}

absl::Status CheckSelection(absl::string_view subject, absl::string_view layer, absl::string_view prefix) {
  if (!layer.empty() && !prefix.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(subject, "layer is '", layer, "' and prefix is '", prefix, "', want one of them"));
  }
  return layer.empty() ? absl::OkStatus() : layer::ValidateName(layer);
}

bool Selects(absl::string_view layer, absl::string_view prefix, absl::string_view name) {
  return layer.empty() ? absl::StartsWith(name, prefix) : name == layer;
}

std::string Selected(absl::string_view layer, absl::string_view prefix) {
  if (!layer.empty()) return absl::StrCat("layer '", layer, "'");
  return prefix.empty() ? "any layer" : absl::StrCat("a layer whose name starts with '", prefix, "'");
}

std::string NewName(const RestoreSelection& selection, const std::string& name) {
  if (!selection.new_name.has_value()) return name;
  if (!selection.layer.empty()) return *selection.new_name;
  return absl::StrCat(*selection.new_name, absl::string_view(name).substr(selection.prefix.size()));
}

// What is the same already stays, and makes no new version.
template <typename Part>
void TakeOver(const std::shared_ptr<const Part>& stored, std::shared_ptr<const Part>* part) {
  if (**part != *stored) *part = stored;
}

// The groups of layers that are restored under other names: those that share among themselves still do.
class NewGroups {
 public:
  void Count(const std::string& group) { ++groups_[group].members; }
  std::string Of(const std::string& group) {
    Group& found = groups_[group];
    if (group.empty() || found.members < 2) return "";
    if (found.name.empty()) found.name = base::NewUid();
    return found.name;
  }

 private:
  struct Group {
    int members = 0;
    std::string name;
  };
  absl::flat_hash_map<std::string, Group> groups_;
};

}  // namespace

Snapshots::Snapshots(LayerRegistry* registry) : registry_(registry), directory_(registry->directory()) {
  directory_->set_snapshots_listener([this](std::vector<store::SnapshotInfo> infos) { Replace(std::move(infos)); });
}

void Snapshots::Replace(std::vector<store::SnapshotInfo> infos) {
  std::map<std::string, store::SnapshotInfo, std::less<>> replacement;
  for (store::SnapshotInfo& info : infos) replacement[info.name] = std::move(info);
  const base::MutexLock lock(&mutex_);
  infos_ = std::move(replacement);
}

absl::Status Snapshots::Load() {
  return directory_->UseStore([&](store::StateStore* store) -> absl::Status {
    absl::StatusOr<std::vector<store::SnapshotInfo>> infos = store->ListSnapshots();
    if (!infos.ok()) return infos.status();
    Replace(*std::move(infos));
    return absl::OkStatus();
  });
}

std::vector<store::SnapshotInfo> Snapshots::List(absl::string_view prefix) const {
  std::vector<store::SnapshotInfo> result;
  const base::MutexLock lock(&mutex_);
  for (auto it = infos_.lower_bound(prefix); it != infos_.end() && absl::StartsWith(it->first, prefix); ++it) {
    result.push_back(it->second);
  }
  return result;
}

absl::StatusOr<store::SnapshotInfo> Snapshots::Find(const std::string& name) const {
  const base::MutexLock lock(&mutex_);
  const auto found = infos_.find(name);
  if (found != infos_.end()) return found->second;
  return absl::NotFoundError(absl::StrCat(Subject(name), "does not exist"));
}

absl::StatusOr<store::SnapshotInfo> Snapshots::Create(const SnapshotSpec& spec) {
  const std::string subject = Subject(spec.name);
  absl::Status status = CheckRequest(spec.name, spec.request_id);
  if (status.ok()) status = CheckSelection(subject, spec.layer, spec.prefix);
  // Of what other servers have changed by now nothing is missing.
  if (status.ok()) status = directory_->Follow();
  if (!status.ok()) return status;
  const uint64_t fingerprint =
      Fingerprint("CreateSnapshot").AddBytes(spec.name).AddBytes(spec.layer).AddBytes(spec.prefix).value();
  auto snapshot = std::make_shared<store::NamedSnapshot>();
  absl::StatusOr<LayerDirectory::LifecycleResult> result =
      directory_->Change(subject, spec.request_id, fingerprint, LayerDirectory::Scope::kAlone,
                         [&](LayerDirectory::LifecycleChange* change) -> absl::Status {
                           if (Find(spec.name).ok())
                             return absl::AlreadyExistsError(absl::StrCat(subject, "exists already"));
                           {
                             const base::MutexLock lock(&mutex_);
                             if (infos_.size() >= kMaxSnapshots) {
                               return absl::ResourceExhaustedError(absl::StrCat(
                                   subject, "the server holds ", kMaxSnapshots, " snapshots, which is its limit"));
                             }
                           }
                           if (!spec.layer.empty()) {
                             absl::StatusOr<std::shared_ptr<LayerEntry>> layer = directory_->Find(spec.layer);
                             if (!layer.ok()) return layer.status();
                             snapshot->layers = {(*layer)->Snapshot()};
                           } else {
                             snapshot->layers = registry_->List(spec.prefix, "", INT_MAX).layers;
                           }
                           if (snapshot->layers.empty()) {
                             return absl::NotFoundError(
                                 absl::StrCat(subject, "the server does not hold ", Selected(spec.layer, spec.prefix)));
                           }
                           snapshot->info = {.name = spec.name,
                                             .layer = spec.layer,
                                             .prefix = spec.prefix,
                                             .num_layers = static_cast<int64_t>(snapshot->layers.size()),
                                             .create_time = directory_->Now()};
                           change->put_snapshot = snapshot;
                           return absl::OkStatus();
                         });
  if (!result.ok()) return result.status();
  if (result->replayed) return Find(spec.name);
  const base::MutexLock lock(&mutex_);
  infos_[spec.name] = snapshot->info;
  return snapshot->info;
}

absl::Status Snapshots::Delete(const std::string& name, absl::string_view request_id) {
  if (absl::Status status = CheckRequest(name, request_id); !status.ok()) return status;
  absl::StatusOr<LayerDirectory::LifecycleResult> result =
      directory_->Change(Subject(name), request_id, Fingerprint("DeleteSnapshot").AddBytes(name).value(),
                         LayerDirectory::Scope::kBeside, [&](LayerDirectory::LifecycleChange* change) -> absl::Status {
                           if (absl::StatusOr<store::SnapshotInfo> info = Find(name); !info.ok()) return info.status();
                           change->remove_snapshot = name;
                           return absl::OkStatus();
                         });
  if (!result.ok() || result->replayed) return result.status();
  const base::MutexLock lock(&mutex_);
  infos_.erase(name);
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Snapshots::Restore(const std::string& name, const RestoreSelection& selection,
                                           absl::string_view request_id) {
  const std::string subject = Subject(name);
  absl::Status status = CheckRequest(name, request_id);
  if (status.ok()) status = CheckSelection(subject, selection.layer, selection.prefix);
  // What is the same already stays: that must not be what it was before another server changed it.
  if (status.ok()) status = directory_->Follow();
  if (!status.ok()) return status;
  // A snapshot never changes: it may be read before anybody has to wait.
  Stored stored;
  status = directory_->UseStore([&](store::StateStore* store) {
    return store->ReadSnapshot(name, [&](SnapshotPtr layer) {
      if (Selects(selection.layer, selection.prefix, layer->name)) stored.layers.push_back(std::move(layer));
      return absl::OkStatus();
    });
  });
  // A retry may come when the snapshot has gone.
  const uint64_t fingerprint = Fingerprint("RestoreSnapshot")
                                   .AddBytes(name)
                                   .AddBytes(selection.layer)
                                   .AddBytes(selection.prefix)
                                   .Add(selection.new_name.has_value())
                                   .AddBytes(selection.new_name.value_or(""))
                                   .value();
  absl::StatusOr<LayerDirectory::LifecycleResult> result =
      directory_->Change(subject, request_id, fingerprint, LayerDirectory::Scope::kAlone,
                         [&](LayerDirectory::LifecycleChange* change) -> absl::Status {
                           if (absl::StatusOr<store::SnapshotInfo> info = Find(name); !info.ok()) return info.status();
                           if (!status.ok()) return layer::WithPrefix(subject, status);
                           return Plan(stored, selection, subject, change);
                         });
  if (!result.ok()) return result.status();
  // Of a restore an outcome holds the number of layers.
  return result->outcome.version;
}

absl::StatusOr<int64_t> Snapshots::RestoreBackup(const std::string& path, const RestoreSelection& selection) {
  constexpr absl::string_view kSubject = "backup: ";
  if (absl::Status status = CheckSelection(kSubject, selection.layer, selection.prefix); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<store::StateStore>> backup = store::OpenBackup(path);
  if (!backup.ok()) return layer::WithPrefix(kSubject, backup.status());
  Stored stored;
  absl::Status status = (*backup)->Load(
      [&](SnapshotPtr layer) {
        if (Selects(selection.layer, selection.prefix, layer->name)) stored.layers.push_back(std::move(layer));
        return absl::OkStatus();
      },
      [&](store::RequestRecord record) {
        if (!record.layer_uid.empty()) stored.requests.push_back(std::move(record));
        return absl::OkStatus();
      });
  if (status.ok()) status = directory_->Follow();
  if (!status.ok()) return layer::WithPrefix(kSubject, status);
  absl::StatusOr<LayerDirectory::LifecycleResult> result = directory_->Change(
      kSubject, "", 0, LayerDirectory::Scope::kAlone,
      [&](LayerDirectory::LifecycleChange* change) { return Plan(stored, selection, kSubject, change); });
  if (!result.ok()) return result.status();
  return result->outcome.version;
}

absl::Status Snapshots::Plan(const Stored& stored, const RestoreSelection& selection, absl::string_view subject,
                             LayerDirectory::LifecycleChange* change) const {
  if (stored.layers.empty()) {
    return absl::NotFoundError(absl::StrCat(subject, "does not hold ", Selected(selection.layer, selection.prefix)));
  }
  const bool renames = selection.new_name.has_value();
  NewGroups new_groups;
  for (const SnapshotPtr& layer : stored.layers) new_groups.Count(layer->affine_group);
  absl::flat_hash_map<std::string, std::vector<store::RequestRecord>> requests;
  // Under other names they are other layers', and may be of one that is here.
  for (const store::RequestRecord& record : stored.requests) {
    if (!renames) requests[record.layer_uid].push_back(record);
  }

  // New versions of layers, whose groups have to follow.
  std::vector<SnapshotPtr> restored;
  absl::flat_hash_set<std::string> uids;
  int64_t num_layers = registry_->size();
  for (const SnapshotPtr& layer : stored.layers) {
    auto target = std::make_shared<LayerSnapshot>(*layer);
    target->name = NewName(selection, layer->name);
    if (renames) target->affine_group = new_groups.Of(layer->affine_group);
    if (absl::Status status = layer::ValidateName(target->name); !status.ok())
      return layer::WithPrefix(subject, status);
    const absl::StatusOr<std::shared_ptr<LayerEntry>> entry = directory_->Find(target->name);
    const SnapshotPtr present = entry.ok() ? (*entry)->Snapshot() : nullptr;
    if (present != nullptr && (renames || present->uid == layer->uid)) {
      uids.insert(present->uid);
      absl::StatusOr<SnapshotPtr> version = PlanVersion(*target, requests[layer->uid], *entry, change);
      if (!version.ok()) return layer::WithPrefix(subject, version.status());
      if (*version != nullptr) restored.push_back(*std::move(version));
      continue;
    }
    // Another layer may have taken the name.
    if (present != nullptr && present->config->frozen) return layer::WithPrefix(subject, FrozenError(*present));
    if (present != nullptr) change->gone.push_back(*entry);
    if (present == nullptr && ++num_layers > registry_->options().max_layers) {
      return absl::ResourceExhaustedError(absl::StrCat(subject, "the server may hold ", registry_->options().max_layers,
                                                       " layers, and this would be more"));
    }
    PrepareFirst(renames, target.get());
    uids.insert(target->uid);
    restored.push_back(target);
    change->made.push_back({.first = std::move(target), .requests = std::move(requests[layer->uid])});
  }
  absl::flat_hash_set<std::string> done;
  for (const SnapshotPtr& layer : restored) {
    if (layer->affine_group.empty() || !done.insert(layer->affine_group).second) continue;
    if (absl::Status status = directory_->groups().FollowOthers(*layer, uids, &change->changed); !status.ok()) {
      return layer::WithPrefix(subject, status);
    }
  }
  change->outcome.version = static_cast<int64_t>(stored.layers.size());
  return absl::OkStatus();
}

absl::StatusOr<SnapshotPtr> Snapshots::PlanVersion(const LayerSnapshot& target,
                                                   const std::vector<store::RequestRecord>& requests,
                                                   const std::shared_ptr<LayerEntry>& entry,
                                                   LayerDirectory::LifecycleChange* change) {
  const SnapshotPtr present = entry->Snapshot();
  absl::StatusOr<LayerEntry::Plan> plan = entry->PrepareAlone("", 0, [&](LayerSnapshot& next) {
    if (*next.config != *target.config) ++next.config_version;
    next.preset = target.preset;
    TakeOver(target.config, &next.config);
    TakeOver(target.statistics, &next.statistics);
    TakeOver(target.affine, &next.affine);
    TakeOver(target.optimizer, &next.optimizer);
    next.affine_group = target.affine_group;
    // Of what it knows nothing is set back. A backup may know more.
    auto known =
        std::make_shared<layer::Contributors>(layer::Contributors::Union(*next.contributors, *target.contributors));
    if (next.uid == target.uid && *known != *next.contributors) next.contributors = std::move(known);
    return absl::OkStatus();
  });
  if (!plan.ok()) return plan.status();
  // A snapshot from before does not unfreeze it.
  if (plan->update.put != nullptr && present->config->frozen) return FrozenError(*present);
  if (plan->update.put != nullptr) change->changed.push_back({entry, plan->update});
  for (store::RequestRecord& record : entry->UnknownRequests(requests)) {
    change->changed.push_back({entry, {.request = std::move(record)}});
  }
  return plan->update.put;
}

void Snapshots::PrepareFirst(bool renamed, LayerSnapshot* first) const {
  first->update_time = directory_->Now();
  if (renamed) {
    first->uid = base::NewUid();
    first->version = 1;
    first->config_version = 1;
    first->create_time = first->update_time;
    return;
  }
  ++first->version;
  ++first->config_version;
  const store::GoneLayer* const gone = directory_->FindGone(first->uid);
  if (gone == nullptr) return;
  // It went on after the snapshot. What it counted then stays known, so that no retry of it is taken in.
  first->version = std::max(first->version, gone->version + 1);
  first->contributors =
      std::make_shared<layer::Contributors>(layer::Contributors::Union(*first->contributors, *gone->contributors));
}

absl::Status Snapshots::Backup(const std::string& path, absl::FunctionRef<absl::Status()> check_alive) {
  std::unique_ptr<store::BackupCopy> copy;
  // The copy ends where the store is used.
  const auto end = [&](store::StateStore*) {
    copy.reset();
    return absl::OkStatus();
  };
  absl::Status status = directory_->UseStore([&](store::StateStore* store) -> absl::Status {
    absl::StatusOr<std::unique_ptr<store::BackupCopy>> started = store->StartBackup(path);
    if (!started.ok()) return started.status();
    copy = *std::move(started);
    return absl::OkStatus();
  });
  bool complete = false;
  while (status.ok() && !complete) {
    status = check_alive();
    if (!status.ok()) break;
    status = directory_->UseStore([&](store::StateStore*) -> absl::Status {
      absl::StatusOr<bool> step = copy->Step();
      if (step.ok()) complete = *step;
      return step.status();
    });
  }
  if (copy != nullptr) directory_->UseStore(end).IgnoreError();
  return status;
}

}  // namespace normd::registry
