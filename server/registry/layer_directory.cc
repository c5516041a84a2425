#include "server/registry/layer_directory.h"

#include <algorithm>
#include <cstddef>
#include <utility>

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
      groups_(&gate_, &committer_),
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
  for (SnapshotPtr& snapshot : snapshots) {
    const std::string name = snapshot->name;
    const std::string group = snapshot->affine_group;
    std::unique_ptr<RequestLog> requests = take_log(snapshot->uid);
    auto entry = std::make_shared<LayerEntry>(std::move(snapshot), std::move(requests), context_);
    groups_.Join(group, entry);
    const base::MutexLock lock(&mutex_);
    layers_.emplace(name, std::move(entry));
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
  return absl::OkStatus();
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
          changes->push_back({nullptr, {.remove = GoneNow(*entry->Snapshot())}});
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
        for (const std::string& uid : forgotten) retired_.erase(uid);
        retired_order_.erase(retired_order_.begin(), retired_order_.begin() + static_cast<ptrdiff_t>(forgotten.size()));
        TakeOver(change);
      });
  if (!status.ok()) {
    for (const std::shared_ptr<LayerEntry>& entry : change.gone) entry->KeepAfterAll();
  }
  if (!refused.ok()) return refused;
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
  for (const std::shared_ptr<LayerEntry>& entry : change.gone) {
    const SnapshotPtr last = entry->Snapshot();
    // Fails if that was done before.
    entry->MarkDeleted([](const layer::LayerSnapshot&) { return absl::OkStatus(); }).IgnoreError();
    std::unique_ptr<RequestLog> requests = entry->ReleaseRequests();
    groups_.Leave(last->affine_group, entry.get());
    retired_[last->uid] = {.layer = GoneNow(*last), .requests = std::move(requests), .time = context_.clock->Elapsed()};
    retired_order_.push_back(last->uid);
    {
      const base::MutexLock lock(&mutex_);
      layers_.erase(layers_.find(last->name));
    }
    watchers_.Changed(last->name);
  }
  for (const Committer::Change& changed : change.changed) {
    if (changed.update.put == nullptr || changed.update.replaces == nullptr) continue;
    if (changed.update.put->affine_group == changed.update.replaces->affine_group) continue;
    groups_.Leave(changed.update.replaces->affine_group, changed.entry.get());
    groups_.Join(changed.update.put->affine_group, changed.entry);
  }
  for (const Made& made : change.made) {
    std::unique_ptr<RequestLog> requests;
    if (const auto retired = retired_.find(made.first->uid); retired != retired_.end()) {
      requests = std::move(retired->second.requests);
      retired_.erase(retired);
    } else {
      requests = NewLog();
    }
    for (const store::RequestRecord& record : made.requests) requests->Restore(record);
    auto entry = std::make_shared<LayerEntry>(made.first, std::move(requests), context_);
    groups_.Join(made.first->affine_group, entry);
    {
      const base::MutexLock lock(&mutex_);
      layers_.emplace(made.first->name, std::move(entry));
    }
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
