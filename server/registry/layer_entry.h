#ifndef NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_
#define NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/layer/layer_state.h"
#include "server/registry/request_log.h"

namespace normd::registry {

// One layer: its newest snapshot, the order of its commits and its recent requests. Thread-safe.
class LayerEntry {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  LayerEntry(SnapshotPtr first, const base::Clock& clock);

  // The newest version. Waits for no commit.
  SnapshotPtr Snapshot() const;

  struct CommitResult {
    // The version that the change made or, if replayed, the newest one.
    SnapshotPtr snapshot;
    // The outcome of this change; if replayed, of the first application.
    RequestLog::Outcome outcome;
    bool replayed = false;
  };

  // Runs `change` on a copy of the newest snapshot and publishes the result as the next version, with content hash and
  // update time filled in; a change that replaces none of the layer's parts makes no version. Commits of one layer run
  // one after another. If `request_id` is known with this
  // fingerprint, nothing runs and the remembered outcome is returned. Any error of `change`, NOT_FOUND after
  // MarkDeleted, and INVALID_ARGUMENT for a request_id with another fingerprint leave the layer as it was.
  absl::StatusOr<CommitResult> Commit(absl::string_view request_id, uint64_t fingerprint,
                                      absl::FunctionRef<absl::Status(layer::LayerSnapshot&)> change);

  // Ends the layer if `check` agrees with its newest snapshot: every later Commit fails.
  absl::Status MarkDeleted(absl::FunctionRef<absl::Status(const layer::LayerSnapshot&)> check);
  bool IsDeleted() const { return deleted_.load(std::memory_order_acquire); }

 private:
  const base::Clock& clock_;
  // Held over a whole commit; taken before snapshot_mutex_.
  base::Mutex commit_mutex_;
  RequestLog requests_ ABSL_GUARDED_BY(commit_mutex_);
  // Written under commit_mutex_, so that no commit comes after it; readers need no lock.
  std::atomic<bool> deleted_ = false;
  // Held for the copy of a pointer only.
  mutable base::Mutex snapshot_mutex_;
  SnapshotPtr snapshot_ ABSL_GUARDED_BY(snapshot_mutex_);
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_LAYER_ENTRY_H_
