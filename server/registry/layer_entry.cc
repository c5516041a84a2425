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

LayerEntry::LayerEntry(SnapshotPtr first, const base::Clock& clock) : clock_(clock), snapshot_(std::move(first)) {}

LayerEntry::SnapshotPtr LayerEntry::Snapshot() const {
  const base::MutexLock lock(&snapshot_mutex_);
  return snapshot_;
}

absl::StatusOr<LayerEntry::CommitResult> LayerEntry::Commit(
    absl::string_view request_id, uint64_t fingerprint, absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change) {
  const base::MutexLock commit_lock(&commit_mutex_);
  const SnapshotPtr before = Snapshot();
  if (IsDeleted()) return DeletedError(*before);

  absl::StatusOr<const RequestLog::Outcome*> known = requests_.Find(request_id, fingerprint);
  if (!known.ok()) return layer::ForLayer(before->name, known.status());
  if (*known != nullptr) return CommitResult{.snapshot = before, .outcome = **known, .replayed = true};

  auto next = std::make_shared<layer::LayerSnapshot>(*before);
  if (absl::Status status = change(*next); !status.ok()) return status;

  CommitResult result;
  const bool inference_differs = InferenceDiffers(*before, *next);
  if (inference_differs || before->optimizer != next->optimizer) {
    next->version = before->version + 1;
    if (inference_differs) next->content_hash = layer::ContentHash(*next->config, *next->statistics, *next->affine);
    next->update_time = clock_.Now();
    result.snapshot = std::move(next);
  } else {
    result.snapshot = before;
  }
  result.outcome = {.fingerprint = fingerprint,
                    .version = result.snapshot->version,
                    .content_hash = result.snapshot->content_hash,
                    .num_batches_tracked = result.snapshot->statistics->num_batches_tracked,
                    .uid = ""};
  requests_.Record(request_id, result.outcome);

  const base::MutexLock snapshot_lock(&snapshot_mutex_);
  snapshot_ = result.snapshot;
  return result;
}

absl::Status LayerEntry::MarkDeleted(absl::FunctionRef<absl::Status(const layer::LayerSnapshot&)> check) {
  const base::MutexLock commit_lock(&commit_mutex_);
  const SnapshotPtr newest = Snapshot();
  if (IsDeleted()) return DeletedError(*newest);
  absl::Status status = check(*newest);
  if (status.ok()) deleted_.store(true, std::memory_order_release);
  return status;
}

}  // namespace normd::registry
