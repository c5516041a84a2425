#ifndef NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_
#define NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/layer/layer_state.h"
#include "server/registry/activity.h"
#include "server/registry/change_gate.h"
#include "server/registry/committer.h"
#include "server/registry/recent_versions.h"
#include "server/registry/request_log.h"
#include "server/registry/watch_hub.h"

namespace normd::registry {

class AffineGroups;

// What all layers of a server share. Outlives them.
struct LayerContext {
  const base::Clock* clock;
  Committer* committer;
  ChangeGate* gate;
  AffineGroups* groups;
  WatchHub* watchers;
  RequestLimits request_limits;
  // What the layers remember together.
  std::atomic<int64_t>* remembered_requests;
  VersionLimits version_limits;
  // The same.
  std::atomic<int64_t>* kept_version_bytes;
  // The same, of what happens to them.
  ActivityTotals* totals;
};

// FAILED_PRECONDITION: what a change of a frozen layer gets.
absl::Status FrozenError(const layer::LayerSnapshot& snapshot);

// One layer: its newest snapshot, the order of its commits and its recent requests. A commit builds on the one before
// it, stored or not; readers see what is stored. Thread-safe.
class LayerEntry : public std::enable_shared_from_this<LayerEntry> {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  // `first` is stored, or will be before anybody else knows this entry. `requests` are those that the layer remembers
  // from before.
  LayerEntry(SnapshotPtr first, std::unique_ptr<RequestLog> requests, const LayerContext& context);

  // The newest version that is stored. Waits for no commit.
  SnapshotPtr Snapshot() const;
  // The stored version of this number, 0 for the newest, if it is the newest or among the latest, which are kept.
  // FAILED_PRECONDITION otherwise; INVALID_ARGUMENT: negative.
  absl::StatusOr<SnapshotPtr> SnapshotAt(int64_t version);

  // Asks the store what other servers, if there are any, have made of the layer. Whether they have.
  bool Refresh();

  // Those that SnapshotAt knows, ascending; the newest comes last.
  std::vector<int64_t> Versions() const;

  struct CommitResult {
    // The version that the change made; if replayed, that one while it is not stored, and then the newest that is.
    SnapshotPtr snapshot;
    // The outcome of this change; if replayed, of the first application.
    RequestLog::Outcome outcome;
    bool replayed = false;
    // Nothing of this may leave the server before this is stored; null: it is. If it ends with a conflict, Commit has
    // to be called again.
    PendingCommitPtr stored;
  };

  // Runs `change`, perhaps several times, on a copy of the newest version and hands the result to the store as the next
  // version, with content hash and update time filled in; a change that replaces none of the layer's parts makes no
  // version. Commits of one layer run one after another. If `request_id` is known with this fingerprint, nothing runs
  // and the remembered outcome is returned. Any error of `change`, NOT_FOUND after MarkDeleted, FAILED_PRECONDITION for
  // a frozen layer that would stay so, and INVALID_ARGUMENT for a request_id with another fingerprint leave the layer
  // as it was; so does a store that fails.
  absl::StatusOr<CommitResult> Commit(absl::string_view request_id, uint64_t fingerprint,
                                      absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change);

  // What a commit does.
  struct Plan {
    CommitResult result;
    // Nothing, if there is nothing to store.
    store::Update update;
    // It changes what the layer shares with others.
    bool concerns_group = false;
  };

  // For ChangeTogether, while no change is under way: the first half of Commit.
  absl::StatusOr<Plan> PrepareAlone(absl::string_view request_id, uint64_t fingerprint,
                                    absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change);
  // The same: see RequestLog::Unknown. Each goes into a change of its own.
  std::vector<store::RequestRecord> UnknownRequests(const std::vector<store::RequestRecord>& records);
  // The same: `update`, of PrepareAlone, is stored.
  void Adopt(const store::Update& update);
  // Ends the layer if `check` agrees with its newest version: every later Commit fails. Waits for one that is under
  // way.
  absl::Status MarkDeleted(absl::FunctionRef<absl::Status(const layer::LayerSnapshot&)> check);
  // Undoes MarkDeleted.
  void KeepAfterAll() { deleted_.store(false, std::memory_order_release); }
  // After MarkDeleted, for good: the requests that the layer remembers.
  std::unique_ptr<RequestLog> ReleaseRequests();
  // What calls do to the layer.
  LayerActivity& activity() { return activity_; }
  bool IsDeleted() const { return deleted_.load(std::memory_order_acquire); }

  // For the committer: `versions`, one after the other, are stored.
  void Publish(absl::Span<const SnapshotPtr> versions);
  // For the committer, where other servers write, too: `update` is stored.
  void MarkStored(const store::Update& update);
  // Where other servers write, while the store is used: the layer is as it is there now, which may be gone. What was
  // built on another version is taken back by the committer.
  void Follow(const store::SharedStore::StoredLayer& stored);
  // The same: whether it is so as far as this server knows.
  bool IsAsStored(const store::SharedStore::Changed& stored) const;
  store::SharedStore::Query QueryStored() const;
  // For the committer: `update` is not stored and never will be.
  void TakeBack(const store::Update& update, const PendingCommitPtr& pending);

 private:
  absl::StatusOr<Plan> Prepare(absl::string_view request_id, uint64_t fingerprint,
                               absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(commit_mutex_);
  // Commit up to the queue of the store. What concerns the group is not done.
  absl::StatusOr<Plan> Queue(absl::string_view request_id, uint64_t fingerprint,
                             absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change);

  // A request that is remembered, but perhaps not stored.
  struct Unsettled {
    std::string request_id;
    PendingCommitPtr pending;
    // As the request left the layer.
    SnapshotPtr snapshot;
  };

  const LayerContext context_;
  LayerActivity activity_;
  // Held over a whole commit; taken before snapshot_mutex_.
  mutable base::Mutex commit_mutex_;
  // The newest version, stored or not.
  SnapshotPtr newest_ ABSL_GUARDED_BY(commit_mutex_);
  // What made newest_; null: that is stored.
  PendingCommitPtr last_pending_ ABSL_GUARDED_BY(commit_mutex_);
  // The oldest first.
  std::deque<Unsettled> unsettled_ ABSL_GUARDED_BY(commit_mutex_);
  // Null once the layer is deleted.
  std::unique_ptr<RequestLog> requests_ ABSL_GUARDED_BY(commit_mutex_);
  // Written under commit_mutex_, so that no commit comes after it; readers need no lock.
  std::atomic<bool> deleted_ = false;
  // Held for the copy of a pointer only.
  mutable base::Mutex snapshot_mutex_;
  SnapshotPtr snapshot_ ABSL_GUARDED_BY(snapshot_mutex_);
  RecentVersions recent_ ABSL_GUARDED_BY(snapshot_mutex_);
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_
