#ifndef NORMD_SERVER_REGISTRY_LAYER_DIRECTORY_H_
#define NORMD_SERVER_REGISTRY_LAYER_DIRECTORY_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/registry/activity.h"
#include "server/registry/affine_groups.h"
#include "server/registry/change_gate.h"
#include "server/registry/committer.h"
#include "server/registry/follower.h"
#include "server/registry/layer_entry.h"
#include "server/registry/request_log.h"
#include "server/registry/watch_hub.h"
#include "server/store/state_store.h"

namespace normd::registry {

struct ListPage {
  std::vector<std::shared_ptr<const layer::LayerSnapshot>> layers;
  // Name to go on after; empty: nothing follows.
  std::string last_name;
};

// Which layers there are, by name, and how their number changes: layers come and go, and several change together, in
// one transaction that no other change falls into. What such a change is, its callers say. Where other servers use the
// store, too, it follows what they do. Thread-safe.
class LayerDirectory {
 public:
  using SnapshotPtr = std::shared_ptr<const layer::LayerSnapshot>;

  // `clock` and `store` outlive this. Load comes before anything else.
  LayerDirectory(const RequestLimits& requests, const VersionLimits& versions, const base::Clock& clock,
                 store::StateStore* store);
  ~LayerDirectory();

  // Takes over what is stored. Statuses of StateStore::Load.
  absl::Status Load();

  // Takes over what other servers have changed, if there are any. Not within Change.
  absl::Status Follow();
  // `listener` is told of the named snapshots when another server has changed them, while the store is used. Null: none
  // is any more.
  using SnapshotsListener = std::function<void(std::vector<store::SnapshotInfo>)>;
  void set_snapshots_listener(SnapshotsListener listener);

  // NOT_FOUND: no such layer. INVALID_ARGUMENT: no layer can have this name.
  absl::StatusOr<std::shared_ptr<LayerEntry>> Find(absl::string_view name) const;
  using NameFilter = absl::FunctionRef<bool(absl::string_view name)>;
  static bool EveryName(absl::string_view /*name*/) { return true; }
  // Up to `page_size` layers in byte order whose name starts with `prefix`, comes after `after` and is `wanted`.
  ListPage List(absl::string_view prefix, absl::string_view after, int page_size, NameFilter wanted) const;
  int64_t size() const;
  // Every layer, in byte order.
  std::vector<std::shared_ptr<LayerEntry>> Entries() const;
  const ActivityTotals& totals() const { return totals_; }
  absl::Time Now() const { return context_.clock->Now(); }
  AffineGroups& groups() { return groups_; }
  WatchHub& watchers() { return watchers_; }

  // A layer that comes.
  struct Made {
    SnapshotPtr first;
    // Requests that it remembers from before, by sequence, besides those that the directory knows of its uid.
    std::vector<store::RequestRecord> requests;
  };
  struct LifecycleChange {
    std::vector<Made> made;
    std::vector<Committer::Change> changed;
    std::vector<std::shared_ptr<LayerEntry>> gone;
    std::shared_ptr<const store::NamedSnapshot> put_snapshot;
    std::string remove_snapshot;
    // What a retry is answered with; the fingerprint is filled in.
    RequestLog::Outcome outcome;
  };
  struct LifecycleResult {
    RequestLog::Outcome outcome;
    // `make` did not run: the outcome is that of the first application.
    bool replayed = false;
  };
  // Who has to wait for a change, besides others like it.
  enum class Scope {
    // Everybody: `make` sees every layer at its newest version, stored.
    kAlone,
    // Nobody. It makes layers, or ends some with MarkDeleted, and changes no other.
    kBeside,
  };
  // Carries out what `make` asks for, which may run several times: all of it or, on any error, nothing.
  // INVALID_ARGUMENT: `request_id` is known with another fingerprint. `subject` begins the text of errors that are not
  // of `make`.
  absl::StatusOr<LifecycleResult> Change(absl::string_view subject, absl::string_view request_id, uint64_t fingerprint,
                                         Scope scope, absl::FunctionRef<absl::Status(LifecycleChange*)> make) {
    return Change(
        subject, request_id, fingerprint, [scope] { return scope; }, make);
  }
  // The same for a change whose scope depends on which layers there are and which share something: asked when no other
  // change of that kind can come between.
  absl::StatusOr<LifecycleResult> Change(absl::string_view subject, absl::string_view request_id, uint64_t fingerprint,
                                         absl::FunctionRef<Scope()> choose_scope,
                                         absl::FunctionRef<absl::Status(LifecycleChange*)> make);

  // What is remembered of a deleted layer with this uid, or null. Within Change, and good until its end.
  const store::GoneLayer* FindGone(const std::string& uid) const ABSL_NO_THREAD_SAFETY_ANALYSIS;

  Committer* committer() const { return context_.committer; }
  // See Committer.
  absl::Status UseStore(absl::FunctionRef<absl::Status(store::StateStore*)> use) { return committer_.UseStore(use); }

 private:
  // What is remembered of a layer that has been deleted, in case it comes back.
  struct Retired {
    store::GoneLayer layer;
    std::unique_ptr<RequestLog> requests;
    // When it went, by Clock::Elapsed.
    absl::Duration time;
  };

  // A layer, and the group in which groups_ has it.
  struct Known {
    std::shared_ptr<LayerEntry> entry;
    std::string group;
  };

  absl::StatusOr<LifecycleResult> TryChange(absl::string_view subject, absl::string_view request_id,
                                            uint64_t fingerprint, absl::FunctionRef<Scope()> choose_scope,
                                            absl::FunctionRef<absl::Status(LifecycleChange*)> make)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  // REQUIRES: other servers write, too.
  absl::Status FollowLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  // Within it: which layers are to be read.
  std::vector<store::SharedStore::Query> BehindOf(const store::SharedStore::Changes& changes) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  // A layer has changed, come or gone elsewhere.
  void TakeOver(const std::string& uid, const store::SharedStore::StoredLayer& stored)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  // A layer comes or goes here.
  void Enter(const SnapshotPtr& first, std::unique_ptr<RequestLog> requests)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  void Retire(const std::shared_ptr<LayerEntry>& entry, store::GoneLayer gone)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  // What is remembered of a layer with this uid, if it has been there before.
  std::unique_ptr<RequestLog> TakeRequests(const std::string& uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  // groups_ knows a layer in the group in which it is.
  void UpdateGroup(const std::string& uid) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  std::unique_ptr<RequestLog> NewLog();
  store::GoneLayer GoneNow(const layer::LayerSnapshot& last) const;
  // Of retired layers: asks the store to forget those that no retry concerns any more. What is gone then is in `uids`.
  void ForgetRetired(std::vector<Committer::Change>* changes, std::vector<std::string>* uids) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);
  // Takes over what is stored.
  void TakeOver(const LifecycleChange& change) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lifecycle_mutex_);

  const RequestLimits request_limits_;
  store::StateStore* const store_;
  std::atomic<int64_t> remembered_requests_ = 0;
  std::atomic<int64_t> kept_version_bytes_ = 0;
  ActivityTotals totals_;
  ChangeGate gate_;
  // Held over a whole Change; taken before any other.
  base::Mutex lifecycle_mutex_;
  // Of Change.
  RequestLog requests_ ABSL_GUARDED_BY(lifecycle_mutex_);
  // By uid.
  absl::flat_hash_map<std::string, Known> known_ ABSL_GUARDED_BY(lifecycle_mutex_);
  // By uid.
  absl::flat_hash_map<std::string, Retired> retired_ ABSL_GUARDED_BY(lifecycle_mutex_);
  // The first to be deleted first.
  std::deque<std::string> retired_order_ ABSL_GUARDED_BY(lifecycle_mutex_);
  // Held for a look into the map only.
  mutable base::SharedMutex mutex_;
  absl::btree_map<std::string, std::shared_ptr<LayerEntry>> layers_ ABSL_GUARDED_BY(mutex_);
  WatchHub watchers_;
  // It publishes to the layers until it is gone.
  Committer committer_;
  AffineGroups groups_;
  const LayerContext context_;
  SnapshotsListener snapshots_listener_ ABSL_GUARDED_BY(lifecycle_mutex_);
  // It has not been told yet.
  bool snapshots_changed_ ABSL_GUARDED_BY(lifecycle_mutex_) = false;
  // Last: its end comes before that of all it uses. Null: no other server writes.
  std::unique_ptr<Follower> follower_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_LAYER_DIRECTORY_H_
