#include "server/registry/layer_entry.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/content_hash.h"
#include "server/layer/layer_error.h"
#include "server/registry/affine_groups.h"
#include "server/registry/joint_change.h"
#include "server/registry/version_pin.h"

namespace normd::registry {
namespace {

absl::Status DeletedError(const layer::LayerSnapshot& snapshot) {
  return absl::NotFoundError(absl::StrCat(layer::LayerPrefix(snapshot.name), "has been deleted"));
}

bool InferenceDiffers(const layer::LayerSnapshot& a, const layer::LayerSnapshot& b) {
  return a.config != b.config || a.statistics != b.statistics || a.affine != b.affine;
}

}  // namespace

absl::Status FrozenError(const layer::LayerSnapshot& snapshot) {
  return absl::FailedPreconditionError(absl::StrCat(layer::LayerPrefix(snapshot.name), "is frozen at version ",
                                                    snapshot.version, ": set frozen to false before you change it"));
}

LayerEntry::LayerEntry(SnapshotPtr first, std::unique_ptr<RequestLog> requests, const LayerContext& context)
    : context_(context),
      activity_(context.totals),
      newest_(first),
      requests_(std::move(requests)),
      snapshot_(std::move(first)),
      recent_(context.version_limits, context.kept_version_bytes) {}

LayerEntry::SnapshotPtr LayerEntry::Snapshot() const {
  const base::MutexLock lock(&snapshot_mutex_);
  return snapshot_;
}

absl::StatusOr<LayerEntry::SnapshotPtr> LayerEntry::SnapshotAt(int64_t version) {
  // One that is to come may be there already, by another server.
  if (version > Snapshot()->version) Refresh();
  const base::MutexLock lock(&snapshot_mutex_);
  absl::Status status = CheckVersionPin(*snapshot_, version);
  if (status.ok()) return snapshot_;
  SnapshotPtr kept = recent_.Find(version);
  if (kept == nullptr) return status;
  return kept;
}

bool LayerEntry::Refresh() {
  if (!context_.committer->shared()) return false;
  const SnapshotPtr before = Snapshot();
  const store::RequestMark known = QueryStored().known;
  if (!context_.committer->Refresh(shared_from_this()).ok()) return false;
  return IsDeleted() || Snapshot() != before || QueryStored().known.sequence != known.sequence;
}

std::vector<int64_t> LayerEntry::Versions() const {
  const base::MutexLock lock(&snapshot_mutex_);
  std::vector<int64_t> versions = recent_.Numbers();
  versions.push_back(snapshot_->version);
  return versions;
}

absl::StatusOr<LayerEntry::CommitResult> LayerEntry::Commit(
    absl::string_view request_id, uint64_t fingerprint, absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change) {
  absl::StatusOr<Plan> plan = Queue(request_id, fingerprint, change);
  // What is refused may be refused because of what this server does not know yet.
  if (!plan.ok() && MayBeBehind(plan.status()) && Refresh()) {
    plan = Queue(request_id, fingerprint, change);
  }
  if (!plan.ok()) return plan.status();
  if (plan->concerns_group) return context_.groups->Commit(shared_from_this(), request_id, fingerprint, change);
  CommitResult result = std::move(plan->result);
  if (result.stored == nullptr) return result;
  context_.committer->Drive();
  if (!result.stored->resolved()) return result;
  absl::Status status = result.stored->Wait();
  if (store::IsConflict(status)) return result;
  if (!status.ok()) return status;
  result.stored = nullptr;
  return result;
}

absl::StatusOr<LayerEntry::Plan> LayerEntry::Prepare(absl::string_view request_id, uint64_t fingerprint,
                                                     absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change) {
  const SnapshotPtr before = newest_;
  if (IsDeleted()) return DeletedError(*before);
  Plan plan;
  CommitResult& result = plan.result;

  absl::StatusOr<const RequestLog::Outcome*> known = requests_->Find(request_id, fingerprint);
  if (!known.ok()) return layer::ForLayer(before->name, known.status());
  if (*known != nullptr) {
    // Not `before`, which may wait for the store, and never get there.
    activity_.OnReplay();
    result = {.snapshot = Snapshot(), .outcome = **known, .replayed = true, .stored = nullptr};
    for (const Unsettled& unsettled : unsettled_) {
      if (unsettled.request_id != request_id || unsettled.pending->resolved()) continue;
      result.snapshot = unsettled.snapshot;
      result.stored = unsettled.pending;
    }
    return plan;
  }

  auto next = std::make_shared<layer::LayerSnapshot>(*before);
  if (absl::Status status = change(*next); !status.ok()) return status;

  plan.update.replaces = before;
  const bool inference_differs = InferenceDiffers(*before, *next);
  if (inference_differs || before->optimizer != next->optimizer || before->affine_group != next->affine_group) {
    if (before->config->frozen && next->config->frozen) return FrozenError(*before);
    next->version = before->version + 1;
    if (inference_differs) next->content_hash = layer::ContentHash(*next->config, *next->statistics, *next->affine);
    next->update_time = context_.clock->Now();
    plan.concerns_group =
        !next->affine_group.empty() && (before->affine != next->affine || before->optimizer != next->optimizer);
    result.snapshot = std::move(next);
    plan.update.put = result.snapshot;
  } else {
    result.snapshot = before;
  }
  result.outcome = {.fingerprint = fingerprint,
                    .version = result.snapshot->version,
                    .content_hash = result.snapshot->content_hash,
                    .num_batches_tracked = result.snapshot->statistics->num_batches_tracked,
                    .uid = ""};
  requests_->Prepare(before->uid, request_id, result.outcome, &plan.update);
  return plan;
}

absl::StatusOr<LayerEntry::Plan> LayerEntry::Queue(absl::string_view request_id, uint64_t fingerprint,
                                                   absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change) {
  const ChangeGate::Pass pass(context_.gate);
  const base::MutexLock commit_lock(&commit_mutex_);
  absl::StatusOr<Plan> plan = Prepare(request_id, fingerprint, change);
  if (!plan.ok() || plan->result.replayed || plan->concerns_group) return plan;
  CommitResult& result = plan->result;
  plan->update.stands_alone = true;
  const store::Update& update = plan->update;
  if (update.IsEmpty()) {
    result.stored = last_pending_;
    return plan;
  }

  absl::StatusOr<PendingCommitPtr> pending = context_.committer->Submit({shared_from_this(), update});
  if (!pending.ok()) return pending.status();
  requests_->Record(update);
  newest_ = result.snapshot;
  last_pending_ = *std::move(pending);
  result.stored = last_pending_;
  if (update.request.has_value()) {
    while (!unsettled_.empty() && unsettled_.front().pending->resolved()) unsettled_.pop_front();
    unsettled_.push_back({std::string(request_id), last_pending_, result.snapshot});
  }
  return plan;
}

absl::StatusOr<LayerEntry::Plan> LayerEntry::PrepareAlone(
    absl::string_view request_id, uint64_t fingerprint, absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change) {
  const base::MutexLock commit_lock(&commit_mutex_);
  absl::StatusOr<Plan> plan = Prepare(request_id, fingerprint, change);
  // What was known by now is stored by now.
  if (plan.ok()) plan->result.stored = nullptr;
  return plan;
}

std::vector<store::RequestRecord> LayerEntry::UnknownRequests(const std::vector<store::RequestRecord>& records) {
  const base::MutexLock commit_lock(&commit_mutex_);
  return requests_->Unknown(records);
}

void LayerEntry::Adopt(const store::Update& update) {
  const base::MutexLock commit_lock(&commit_mutex_);
  requests_->Record(update);
  if (update.request.has_value()) requests_->MarkStored(update.request->request_id);
  if (update.put == nullptr) return;
  newest_ = update.put;
  last_pending_ = nullptr;
  Publish(absl::MakeConstSpan(&update.put, 1));
}

absl::Status LayerEntry::MarkDeleted(absl::FunctionRef<absl::Status(const layer::LayerSnapshot&)> check) {
  const base::MutexLock commit_lock(&commit_mutex_);
  if (IsDeleted()) return DeletedError(*newest_);
  absl::Status status = check(*newest_);
  if (status.ok()) deleted_.store(true, std::memory_order_release);
  return status;
}

std::unique_ptr<RequestLog> LayerEntry::ReleaseRequests() {
  const base::MutexLock commit_lock(&commit_mutex_);
  return std::move(requests_);
}

void LayerEntry::Publish(absl::Span<const SnapshotPtr> versions) {
  for (SnapshotPtr version : versions) {
    // Outlives the lock: whoever lets go of a version last frees it.
    SnapshotPtr gone;
    const base::MutexLock lock(&snapshot_mutex_);
    version.swap(snapshot_);
    gone = recent_.Add(std::move(version));
  }
  if (!versions.empty()) context_.watchers->Changed(versions.back()->name);
}

void LayerEntry::MarkStored(const store::Update& update) {
  const base::MutexLock commit_lock(&commit_mutex_);
  if (update.request.has_value() && requests_ != nullptr) requests_->MarkStored(update.request->request_id);
}

void LayerEntry::Follow(const store::SharedStore::StoredLayer& stored) {
  const base::MutexLock commit_lock(&commit_mutex_);
  if (requests_ != nullptr) requests_->Adopt(stored.requests, stored.all_requests);
  if (stored.snapshot == nullptr) {
    deleted_.store(true, std::memory_order_release);
    return;
  }
  const SnapshotPtr present = Snapshot();
  if (present->version == stored.snapshot->version && present->content_hash == stored.snapshot->content_hash) return;
  newest_ = stored.snapshot;
  last_pending_ = nullptr;
  if (present->version >= stored.snapshot->version) {
    // A failover has forgotten it, and those before it may not be what they were.
    const base::MutexLock lock(&snapshot_mutex_);
    recent_.Clear();
    snapshot_ = stored.snapshot;
    context_.watchers->Changed(stored.snapshot->name);
    return;
  }
  Publish(absl::MakeConstSpan(&stored.snapshot, 1));
}

bool LayerEntry::IsAsStored(const store::SharedStore::Changed& stored) const {
  const base::MutexLock commit_lock(&commit_mutex_);
  const SnapshotPtr present = Snapshot();
  return !IsDeleted() && present->version == stored.version && present->content_hash == stored.content_hash &&
         requests_->LastStored().sequence == stored.last_sequence;
}

store::SharedStore::Query LayerEntry::QueryStored() const {
  const base::MutexLock commit_lock(&commit_mutex_);
  return {Snapshot()->uid, requests_ == nullptr ? store::RequestMark() : requests_->LastStored()};
}

void LayerEntry::TakeBack(const store::Update& update, const PendingCommitPtr& pending) {
  const base::MutexLock commit_lock(&commit_mutex_);
  // What was built on it comes to the committer later and finds that its predecessor is not stored.
  newest_ = Snapshot();
  if (last_pending_ == pending) last_pending_ = nullptr;
  if (update.request.has_value() && requests_ != nullptr) requests_->TakeBack(update.request->request_id);
}

}  // namespace normd::registry
