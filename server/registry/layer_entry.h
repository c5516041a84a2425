#ifndef NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_
#define NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/layer/layer_state.h"
#include "server/registry/committer.h"
#include "server/registry/request_log.h"

namespace normd::registry {

// What all layers of a server share. Outlives them.
struct LayerContext {
  const base::Clock* clock;
  Committer* committer;
  RequestLimits request_limits;
  // What the layers remember together.
  std::atomic<int64_t>* remembered_requests;
};

// One layer: its newest snapshot, the order of its commits and its recent requests. A commit builds on the one before
// it, stored or not; readers see what is stored. Thread-safe.
class LayerEntry : public std::enable_shared_from_this<LayerEntry> {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  // `first` is stored, or will be before anybody else knows this entry.
  LayerEntry(SnapshotPtr first, const LayerContext& context);

  // The newest version that is stored. Waits for no commit.
  SnapshotPtr Snapshot() const;

  struct CommitResult {
    // The version that the change made; if replayed, that one while it is not stored, and then the newest that is.
    SnapshotPtr snapshot;
    // The outcome of this change; if replayed, of the first application.
    RequestLog::Outcome outcome;
    bool replayed = false;
    // Nothing of this may leave the server before this is stored; null: it is.
    PendingCommitPtr stored;
  };

  // Runs `change` on a copy of the newest version and hands the result to the store as the next version, with content
  // hash and update time filled in; a change that replaces none of the layer's parts makes no version. Commits of one
  // layer run one after another. If `request_id` is known with this fingerprint, nothing runs and the remembered
  // outcome is returned. Any error of `change`, NOT_FOUND after MarkDeleted, and INVALID_ARGUMENT for a request_id with
  // another fingerprint leave the layer as it was; so does a store that fails.
  absl::StatusOr<CommitResult> Commit(absl::string_view request_id, uint64_t fingerprint,
                                      absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change);

  // Ends the layer if `check` agrees with its newest version: every later Commit fails.
  absl::Status MarkDeleted(absl::FunctionRef<absl::Status(const layer::LayerSnapshot&)> check);
  // Undoes MarkDeleted.
  void KeepAfterAll() { deleted_.store(false, std::memory_order_release); }
  bool IsDeleted() const { return deleted_.load(std::memory_order_acquire); }

  // Remembers a request from before the server's start.
  void RestoreRequest(const store::RequestRecord& record);

  // For the committer: `snapshot` is stored.
  void Publish(SnapshotPtr snapshot);
  // For the committer: `update` is not stored and never will be.
  void TakeBack(const store::Update& update, const PendingCommitPtr& pending);

 private:
  // Commit up to the queue of the store.
  absl::StatusOr<CommitResult> Queue(absl::string_view request_id, uint64_t fingerprint,
                                     absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change);

  // A request that is remembered, but perhaps not stored.
  struct Unsettled {
    std::string request_id;
    PendingCommitPtr pending;
    // As the request left the layer.
    SnapshotPtr snapshot;
  };

  const LayerContext context_;
  // Held over a whole commit; taken before snapshot_mutex_.
  base::Mutex commit_mutex_;
  // The newest version, stored or not.
  SnapshotPtr newest_ ABSL_GUARDED_BY(commit_mutex_);
  // What made newest_; null: that is stored.
  PendingCommitPtr last_pending_ ABSL_GUARDED_BY(commit_mutex_);
  // The oldest first.
  std::deque<Unsettled> unsettled_ ABSL_GUARDED_BY(commit_mutex_);
  RequestLog requests_ ABSL_GUARDED_BY(commit_mutex_);
  // Written under commit_mutex_, so that no commit comes after it; readers need no lock.
  std::atomic<bool> deleted_ = false;
  // Held for the copy of a pointer only.
  mutable base::Mutex snapshot_mutex_;
  SnapshotPtr snapshot_ ABSL_GUARDED_BY(snapshot_mutex_);
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_
