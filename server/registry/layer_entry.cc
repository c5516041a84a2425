#include "server/registry/layer_entry.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/content_hash.h"
#include "server/layer/layer_error.h"

namespace normd::registry {
namespace {

absl::Status DeletedError(const layer::LayerSnapshot& snapshot) {
  return absl::NotFoundError(absl::StrCat(layer::LayerPrefix(snapshot.name), "has been deleted"));
}

bool InferenceDiffers(const layer::LayerSnapshot& a, const layer::LayerSnapshot& b) {
  return a.config != b.config || a.statistics != b.statistics || a.affine != b.affine;
}

}  // namespace

LayerEntry::LayerEntry(SnapshotPtr first, const LayerContext& context)
    : context_(context),
      newest_(first),
      requests_(context.request_limits, context.clock, context.remembered_requests),
      snapshot_(std::move(first)) {}

LayerEntry::SnapshotPtr LayerEntry::Snapshot() const {
  const base::MutexLock lock(&snapshot_mutex_);
  return snapshot_;
}

absl::StatusOr<LayerEntry::CommitResult> LayerEntry::Commit(
    absl::string_view request_id, uint64_t fingerprint, absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change) {
  absl::StatusOr<CommitResult> result = Queue(request_id, fingerprint, change);
  if (!result.ok() || result->stored == nullptr) return result;
  context_.committer->Drive();
  if (!result->stored->resolved()) return result;
  if (absl::Status status = result->stored->Wait(); !status.ok()) return status;
  result->stored = nullptr;
  return result;
}

absl::StatusOr<LayerEntry::CommitResult> LayerEntry::Queue(
    absl::string_view request_id, uint64_t fingerprint, absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change) {
  const base::MutexLock commit_lock(&commit_mutex_);
  const SnapshotPtr before = newest_;
  if (IsDeleted()) return DeletedError(*before);

  absl::StatusOr<const RequestLog::Outcome*> known = requests_.Find(request_id, fingerprint);
  if (!known.ok()) return layer::ForLayer(before->name, known.status());
  if (*known != nullptr) {
    // Not `before`, which may wait for the store, and never get there.
    CommitResult result = {.snapshot = Snapshot(), .outcome = **known, .replayed = true, .stored = nullptr};
    for (const Unsettled& unsettled : unsettled_) {
      if (unsettled.request_id != request_id || unsettled.pending->resolved()) continue;
      result.snapshot = unsettled.snapshot;
      result.stored = unsettled.pending;
    }
    return result;
  }

  auto next = std::make_shared<layer::LayerSnapshot>(*before);
  if (absl::Status status = change(*next); !status.ok()) return status;

  CommitResult result;
  store::Update update;
  update.replaces = before;
  const bool inference_differs = InferenceDiffers(*before, *next);
  if (inference_differs || before->optimizer != next->optimizer) {
    next->version = before->version + 1;
    if (inference_differs) next->content_hash = layer::ContentHash(*next->config, *next->statistics, *next->affine);
    next->update_time = context_.clock->Now();
    result.snapshot = std::move(next);
    update.put = result.snapshot;
  } else {
    result.snapshot = before;
  }
  result.outcome = {.fingerprint = fingerprint,
                    .version = result.snapshot->version,
                    .content_hash = result.snapshot->content_hash,
                    .num_batches_tracked = result.snapshot->statistics->num_batches_tracked,
                    .uid = ""};
  requests_.Prepare(before->uid, request_id, result.outcome, &update);
  if (update.put == nullptr && !update.request.has_value()) {
    result.stored = last_pending_;
    return result;
  }

  absl::StatusOr<PendingCommitPtr> pending = context_.committer->Submit({shared_from_this(), update});
  if (!pending.ok()) return pending.status();
  requests_.Record(update);
  newest_ = result.snapshot;
  last_pending_ = *std::move(pending);
  result.stored = last_pending_;
  if (update.request.has_value()) {
    while (!unsettled_.empty() && unsettled_.front().pending->resolved()) unsettled_.pop_front();
    unsettled_.push_back({std::string(request_id), last_pending_, result.snapshot});
  }
  return result;
}

absl::Status LayerEntry::MarkDeleted(absl::FunctionRef<absl::Status(const layer::LayerSnapshot&)> check) {
  const base::MutexLock commit_lock(&commit_mutex_);
  if (IsDeleted()) return DeletedError(*newest_);
  absl::Status status = check(*newest_);
  if (status.ok()) deleted_.store(true, std::memory_order_release);
  return status;
}

void LayerEntry::RestoreRequest(const store::RequestRecord& record) {
  const base::MutexLock commit_lock(&commit_mutex_);
  requests_.Restore(record);
}

void LayerEntry::Publish(SnapshotPtr snapshot) {
  const base::MutexLock lock(&snapshot_mutex_);
  snapshot_ = std::move(snapshot);
}

void LayerEntry::TakeBack(const store::Update& update, const PendingCommitPtr& pending) {
  const base::MutexLock commit_lock(&commit_mutex_);
  // What was built on it comes to the committer later and finds that its predecessor is not stored.
  newest_ = Snapshot();
  if (last_pending_ == pending) last_pending_ = nullptr;
  if (update.request.has_value()) requests_.TakeBack(update.request->request_id);
}

}  // namespace normd::registry
