#include "server/registry/layer_directory.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/registry/joint_change.h"

namespace normd::registry {
namespace {

// Deleted layers of which something is remembered, some 500 bytes each.
constexpr std::size_t kMaxRetired = 100'000;

}  // namespace

LayerDirectory::LayerDirectory(const RequestLimits& requests, const VersionLimits& versions, const base::Clock& clock,
                               store::StateStore* store)
    : request_limits_(requests),
      store_(store),
      requests_(requests, &clock, &remembered_requests_),
      committer_(store),
      groups_(&gate_, &committer_, [this] { return Follow(); }),
      context_{&clock,   &committer_,          &gate_,  &groups_, &watchers_, requests, &remembered_requests_,
               versions, &kept_version_bytes_, &totals_} {}

LayerDirectory::~LayerDirectory() = default;

std::unique_ptr<RequestLog> LayerDirectory::NewLog() {
  return std::make_unique<RequestLog>(request_limits_, context_.clock, &remembered_requests_);
}

absl::Status LayerDirectory::Load() {
  const base::MutexLock lifecycle_lock(&lifecycle_mutex_);
  std::vector<SnapshotPtr> snapshots;
  absl::flat_hash_map<std::string, std::unique_ptr<RequestLog>> logs;
  absl::Status status = store_->Load(
      [&](SnapshotPtr snapshot) {
        snapshots.push_back(std::move(snapshot));
        return absl::OkStatus();
      },
      [&](const store::RequestRecord& record) ABSL_NO_THREAD_SAFETY_ANALYSIS {
        if (record.layer_uid.empty()) {
          requests_.Restore(record);
          return absl::OkStatus();
        }
        std::unique_ptr<RequestLog>& log = logs[record.layer_uid];
        if (log == nullptr) log = NewLog();
        log->Restore(record);
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<store::GoneLayer>> gone = store_->ListGone();
  if (!gone.ok()) return gone.status();
  const auto take_log = [&](const std::string& uid) {
    const auto log = logs.find(uid);
    return log == logs.end() ? NewLog() : std::move(log->second);
  };
  for (const SnapshotPtr& snapshot : snapshots) {
    std::unique_ptr<RequestLog> requests = take_log(snapshot->uid);
    Enter(snapshot, std::move(requests));
  }
  std::sort(gone->begin(), gone->end(), [](const auto& a, const auto& b) { return a.time < b.time; });
  for (store::GoneLayer& layer : *gone) {
    retired_order_.push_back(layer.uid);
    Retired& retired = retired_[layer.uid];
    retired.requests = take_log(layer.uid);
    // By the wall clock there is nothing else to go by; one that went in the future has just gone.
    retired.time = context_.clock->Elapsed() - std::max(absl::ZeroDuration(), Now() - layer.time);
    retired.layer = std::move(layer);
  }
  if (store::SharedStore* const shared = store_->shared()) {
    // What fails now is asked for again.
    follower_ = std::make_unique<Follower>(shared->poll_interval(), [this] { Follow().IgnoreError(); });
  }
  return absl::OkStatus();
}

void LayerDirectory::Enter(const SnapshotPtr& first, std::unique_ptr<RequestLog> requests) {
  auto entry = std::make_shared<LayerEntry>(first, std::move(requests), context_);
  groups_.Join(first->affine_group, entry);
  if (committer_.shared()) known_[first->uid] = {entry, first->affine_group};
  const base::MutexLock lock(&mutex_);
  layers_.emplace(first->name, std::move(entry));
}

void LayerDirectory::Retire(const std::shared_ptr<LayerEntry>& entry, store::GoneLayer gone) {
  const SnapshotPtr last = entry->Snapshot();
  // Fails if that was done before.
  entry->MarkDeleted([](const layer::LayerSnapshot&) { return absl::OkStatus(); }).IgnoreError();
  groups_.Leave(last->affine_group, entry.get());
  if (const auto known = known_.find(last->uid); known != known_.end()) {
    groups_.Leave(known->second.group, entry.get());
    known_.erase(known);
  }
  retired_[last->uid] = {
      .layer = std::move(gone), .requests = entry->ReleaseRequests(), .time = context_.clock->Elapsed()};
  retired_order_.push_back(last->uid);
  {
    const base::MutexLock lock(&mutex_);
    const auto found = layers_.find(last->name);
    if (found != layers_.end() && found->second == entry) layers_.erase(found);
  }
  watchers_.Changed(last->name);
}

std::unique_ptr<RequestLog> LayerDirectory::TakeRequests(const std::string& uid) {
  const auto retired = retired_.find(uid);
  if (retired == retired_.end()) return NewLog();
  std::unique_ptr<RequestLog> requests = std::move(retired->second.requests);
  retired_.erase(retired);
  return requests;
}

void LayerDirectory::UpdateGroup(const std::string& uid) {
  const auto known = known_.find(uid);
  if (known == known_.end()) return;
  const std::string& group = known->second.entry->Snapshot()->affine_group;
  if (group == known->second.group) return;
  groups_.Leave(known->second.group, known->second.entry.get());
  groups_.Join(group, known->second.entry);
  known->second.group = group;
}

void LayerDirectory::set_snapshots_listener(SnapshotsListener listener) {
  const base::MutexLock lifecycle_lock(&lifecycle_mutex_);
  snapshots_listener_ = std::move(listener);
}

absl::Status LayerDirectory::Follow() {
  if (!committer_.shared()) return absl::OkStatus();
  const base::MutexLock lifecycle_lock(&lifecycle_mutex_);
  return FollowLocked();
}

absl::Status LayerDirectory::FollowLocked() {
  return committer_.UseStore([&](store::StateStore* store) ABSL_NO_THREAD_SAFETY_ANALYSIS -> absl::Status {
    absl::StatusOr<store::SharedStore::Changes> changes = store->shared()->ReadChanges();
    if (!changes.ok()) return changes.status();
    snapshots_changed_ = snapshots_changed_ || changes->snapshots;
    std::vector<std::pair<std::string, store::SharedStore::StoredLayer>> read;
    absl::Status status = store->shared()->ReadLayers(
        BehindOf(*changes), [&](const store::SharedStore::Query& query, store::SharedStore::StoredLayer stored) {
          read.emplace_back(query.uid, std::move(stored));
        });
    if (!status.ok()) return status;
    // Those that have gone first: others may have their names.
    std::stable_partition(read.begin(), read.end(), [](const auto& one) { return one.second.snapshot == nullptr; });
    for (const auto& [uid, stored] : read) TakeOver(uid, stored);
    for (const store::SharedStore::Changed& changed : changes->layers) UpdateGroup(changed.uid);
    if (!snapshots_changed_ || snapshots_listener_ == nullptr) return absl::OkStatus();
    absl::StatusOr<std::vector<store::SnapshotInfo>> infos = store->ListSnapshots();
    if (!infos.ok()) return infos.status();
    snapshots_listener_(*std::move(infos));
    snapshots_changed_ = false;
    return absl::OkStatus();
  });
}

std::vector<store::SharedStore::Query> LayerDirectory::BehindOf(const store::SharedStore::Changes& changes) const {
  std::vector<store::SharedStore::Query> queries;
  absl::flat_hash_set<std::string> present;
  for (const store::SharedStore::Changed& changed : changes.layers) {
    if (changes.all) present.insert(changed.uid);
    if (changed.uid.empty()) {
      if (requests_.LastStored().sequence != changed.last_sequence) queries.push_back({"", requests_.LastStored()});
    } else if (const auto known = known_.find(changed.uid); known != known_.end()) {
      if (!known->second.entry->IsAsStored(changed)) queries.push_back(known->second.entry->QueryStored());
    } else if (const auto retired = retired_.find(changed.uid); retired == retired_.end()) {
      queries.push_back({changed.uid, {}});
    } else if (changed.version != 0) {
      queries.push_back({changed.uid, retired->second.requests->LastStored()});
    }
  }
  if (!changes.all) return queries;
  for (const auto& [uid, known] : known_) {
    if (!present.contains(uid)) queries.push_back(known.entry->QueryStored());
  }
  return queries;
}

void LayerDirectory::TakeOver(const std::string& uid, const store::SharedStore::StoredLayer& stored) {
  if (uid.empty()) return requests_.Adopt(stored.requests, stored.all_requests);
  if (const auto known = known_.find(uid); known != known_.end()) {
    const std::shared_ptr<LayerEntry> entry = known->second.entry;
    entry->Follow(stored);
    if (stored.snapshot == nullptr) Retire(entry, stored.gone.value_or(GoneNow(*entry->Snapshot())));
    return;
  }
  if (stored.snapshot == nullptr && !stored.gone.has_value()) return;
  std::unique_ptr<RequestLog> requests = TakeRequests(uid);
  requests->Adopt(stored.requests, stored.all_requests);
  if (stored.snapshot == nullptr) {
    // It came and went elsewhere.
    retired_[uid] = {.layer = *stored.gone, .requests = std::move(requests), .time = context_.clock->Elapsed()};
    retired_order_.push_back(uid);
    return;
  }
  std::shared_ptr<LayerEntry> other;
  {
    const base::ReaderMutexLock lock(&mutex_);
    const auto found = layers_.find(stored.snapshot->name);
    if (found != layers_.end()) other = found->second;
  }
  // It has gone since it was read.
  if (other != nullptr) Retire(other, GoneNow(*other->Snapshot()));
  Enter(stored.snapshot, std::move(requests));
  watchers_.Changed(stored.snapshot->name);
}

absl::StatusOr<std::shared_ptr<LayerEntry>> LayerDirectory::Find(absl::string_view name) const {
  {
    const base::ReaderMutexLock lock(&mutex_);
    const auto found = layers_.find(name);
    if (found != layers_.end() && !found->second->IsDeleted()) return found->second;
  }
  // A name that cannot exist gets the more helpful answer.
  if (absl::Status status = layer::ValidateName(name); !status.ok()) return status;
  return absl::NotFoundError(absl::StrCat(layer::LayerPrefix(name), "does not exist"));
}

ListPage LayerDirectory::List(absl::string_view prefix, absl::string_view after, int page_size,
                              NameFilter wanted) const {
  ListPage page;
  const auto limit = static_cast<size_t>(std::max(page_size, 1));
  const base::ReaderMutexLock lock(&mutex_);
  auto it = after < prefix ? layers_.lower_bound(prefix) : layers_.upper_bound(after);
  for (; it != layers_.end() && absl::StartsWith(it->first, prefix); ++it) {
    if (it->second->IsDeleted() || !wanted(it->first)) continue;
    if (page.layers.size() == limit) {
      page.last_name = page.layers.back()->name;
      break;
    }
    page.layers.push_back(it->second->Snapshot());
  }
  return page;
}

int64_t LayerDirectory::size() const {
  const base::ReaderMutexLock lock(&mutex_);
  return static_cast<int64_t>(layers_.size());
}

std::vector<std::shared_ptr<LayerEntry>> LayerDirectory::Entries() const {
  std::vector<std::shared_ptr<LayerEntry>> entries;
  const base::ReaderMutexLock lock(&mutex_);
  entries.reserve(layers_.size());
  for (const auto& [name, entry] : layers_) {
    if (!entry->IsDeleted()) entries.push_back(entry);
  }
  return entries;
}

absl::StatusOr<LayerDirectory::LifecycleResult> LayerDirectory::Change(
    absl::string_view subject, absl::string_view request_id, uint64_t fingerprint,
    absl::FunctionRef<Scope()> choose_scope, absl::FunctionRef<absl::Status(LifecycleChange*)> make) {
  const base::MutexLock lifecycle_lock(&lifecycle_mutex_);
  absl::StatusOr<LifecycleResult> result = TryChange(subject, request_id, fingerprint, choose_scope, make);
  if (result.ok() || !committer_.shared()) return result;
  // What is refused may be refused because of what this server does not know yet.
  for (int i = 0; i < kMostConflicts; ++i) {
    const bool conflict = store::IsConflict(result.status());
    if (!conflict && (i > 0 || !MayBeBehind(result.status()))) return result;
    if (absl::Status status = FollowLocked(); !status.ok()) {
      return conflict ? layer::WithPrefix(subject, store::WriteFailure(status)) : result.status();
    }
    result = TryChange(subject, request_id, fingerprint, choose_scope, make);
    if (result.ok()) return result;
  }
  return store::IsConflict(result.status()) ? layer::WithPrefix(subject, TooManyConflicts()) : result.status();
}

absl::StatusOr<LayerDirectory::LifecycleResult> LayerDirectory::TryChange(
    absl::string_view subject, absl::string_view request_id, uint64_t fingerprint,
    absl::FunctionRef<Scope()> choose_scope, absl::FunctionRef<absl::Status(LifecycleChange*)> make) {
  absl::StatusOr<const RequestLog::Outcome*> known = requests_.Find(request_id, fingerprint);
  if (!known.ok()) return layer::WithPrefix(subject, known.status());
  if (*known != nullptr) {
    totals_.replays.fetch_add(1, std::memory_order_relaxed);
    return LifecycleResult{.outcome = **known, .replayed = true};
  }

  const Scope scope = choose_scope();
  LifecycleChange change;
  store::Update record;
  std::vector<std::string> forgotten;
  absl::Status refused;
  if (scope == Scope::kBeside) refused = make(&change);
  if (!refused.ok()) return refused;
  absl::Status status = ChangeTogether(
      scope == Scope::kAlone ? &gate_ : nullptr, &committer_,
      [&](std::vector<Committer::Change>* changes) ABSL_NO_THREAD_SAFETY_ANALYSIS -> absl::Status {
        if (scope == Scope::kAlone) refused = make(&change);
        if (!refused.ok()) return refused;
        for (const std::shared_ptr<LayerEntry>& entry : change.gone) {
          changes->push_back({nullptr, {.replaces = entry->Snapshot(), .remove = GoneNow(*entry->Snapshot())}});
        }
        changes->insert(changes->end(), change.changed.begin(), change.changed.end());
        for (Made& made : change.made) {
          changes->push_back({nullptr, {.put = made.first}});
          const auto retired = retired_.find(made.first->uid);
          if (retired != retired_.end()) made.requests = retired->second.requests->Unknown(made.requests);
          for (const store::RequestRecord& request : made.requests) changes->push_back({nullptr, {.request = request}});
        }
        ForgetRetired(changes, &forgotten);
        change.outcome.fingerprint = fingerprint;
        record.put_snapshot = change.put_snapshot;
        record.remove_snapshot = change.remove_snapshot;
        requests_.Prepare("", request_id, change.outcome, &record);
        if (!record.IsEmpty()) changes->push_back({nullptr, record});
        return absl::OkStatus();
      },
      [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
        requests_.Record(record);
        if (record.request.has_value()) requests_.MarkStored(record.request->request_id);
        for (const std::string& uid : forgotten) retired_.erase(uid);
        retired_order_.erase(retired_order_.begin(), retired_order_.begin() + static_cast<ptrdiff_t>(forgotten.size()));
        TakeOver(change);
      });
  if (!status.ok()) {
    for (const std::shared_ptr<LayerEntry>& entry : change.gone) entry->KeepAfterAll();
  }
  if (!refused.ok()) return refused;
  if (store::IsConflict(status)) return status;
  if (!status.ok()) return layer::WithPrefix(subject, status);
  return LifecycleResult{.outcome = std::move(change.outcome)};
}

void LayerDirectory::ForgetRetired(std::vector<Committer::Change>* changes, std::vector<std::string>* uids) const {
  const absl::Duration start = context_.clock->Elapsed() - request_limits_.window;
  int64_t remembered = remembered_requests_.load(std::memory_order_relaxed);
  for (const std::string& uid : retired_order_) {
    const auto retired = retired_.find(uid);
    // Absent: the layer has come back.
    if (retired != retired_.end()) {
      const RequestLog& requests = *retired->second.requests;
      if (retired->second.time >= start && remembered <= request_limits_.total &&
          retired_order_.size() - uids->size() <= kMaxRetired) {
        return;
      }
      remembered -= static_cast<int64_t>(requests.size());
      changes->push_back({nullptr, {.forget = uid}});
    }
    uids->push_back(uid);
  }
}

void LayerDirectory::TakeOver(const LifecycleChange& change) {
  for (const std::shared_ptr<LayerEntry>& entry : change.gone) Retire(entry, GoneNow(*entry->Snapshot()));
  for (const Committer::Change& changed : change.changed) {
    if (changed.update.put == nullptr || changed.update.replaces == nullptr) continue;
    if (changed.update.put->affine_group == changed.update.replaces->affine_group) continue;
    groups_.Leave(changed.update.replaces->affine_group, changed.entry.get());
    groups_.Join(changed.update.put->affine_group, changed.entry);
    const auto known = known_.find(changed.update.put->uid);
    if (known != known_.end()) known->second.group = changed.update.put->affine_group;
  }
  for (const Made& made : change.made) {
    std::unique_ptr<RequestLog> requests = TakeRequests(made.first->uid);
    for (const store::RequestRecord& record : made.requests) requests->Restore(record);
    Enter(made.first, std::move(requests));
    watchers_.Changed(made.first->name);
  }
}

const store::GoneLayer* LayerDirectory::FindGone(const std::string& uid) const {
  const auto retired = retired_.find(uid);
  return retired == retired_.end() ? nullptr : &retired->second.layer;
}

store::GoneLayer LayerDirectory::GoneNow(const layer::LayerSnapshot& last) const {
  return {.uid = last.uid, .version = last.version, .contributors = last.contributors, .time = Now()};
}

}  // namespace normd::registry
