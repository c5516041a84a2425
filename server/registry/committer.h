#ifndef NORMD_SERVER_REGISTRY_COMMITTER_H_
#define NORMD_SERVER_REGISTRY_COMMITTER_H_

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/base/duration_histogram.h"
#include "server/base/mutex.h"
#include "server/store/state_store.h"

namespace normd::registry {

class LayerEntry;

// Runs what has to be done once more because another server was faster, in the order in which it comes, on a thread of
// its own: whoever finds that out must not wait. Thread-safe.
class AgainQueue {
 public:
  using Job = absl::AnyInvocable<void()>;

  AgainQueue();
  // REQUIRES: nothing comes any more.
  ~AgainQueue();
  AgainQueue(const AgainQueue&) = delete;
  AgainQueue& operator=(const AgainQueue&) = delete;

  void Add(Job job);

 private:
  void Run() ABSL_NO_THREAD_SAFETY_ANALYSIS;

  base::Mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

// A change on its way into the store. Thread-safe.
class PendingCommit {
 public:
  // Runs once; must not throw and must not block.
  using Done = absl::AnyInvocable<void(const absl::Status&)>;

  // `again`: null where no other server writes. Outlives this.
  explicit PendingCommit(AgainQueue* again = nullptr) : again_(again) {}

  // Runs `done` with what became of the change: now, if that is known, or later on the committing thread. A conflict
  // (store::IsConflict): nothing; another server was faster, and the layer is now what that has made of it.
  void Then(Done done);
  // REQUIRES: there was a conflict.
  AgainQueue* again() const { return again_; }
  absl::Status Wait();
  // Whether that is known.
  bool resolved() const;

 private:
  friend class Committer;
  void Resolve(const absl::Status& status);

  AgainQueue* const again_;
  mutable base::Mutex mutex_;
  std::condition_variable wake_;
  std::optional<absl::Status> status_ ABSL_GUARDED_BY(mutex_);
  std::vector<Done> done_ ABSL_GUARDED_BY(mutex_);
};

// Null: the change, if there was one, is stored.
using PendingCommitPtr = std::shared_ptr<PendingCommit>;

// What the store was given. A plain value.
struct CommitStatistics {
  // Transactions that succeeded, and the updates in them.
  int64_t transactions = 0;
  int64_t updates = 0;
  // Those that failed.
  int64_t errors = 0;
  // Those that another server forestalled.
  int64_t conflicts = 0;
  // Of all.
  base::DurationHistogram duration;
};

// Waits for a change that may be null.
absl::Status WaitFor(const PendingCommitPtr& pending);

// Runs `answer`, a function (absl::Status), when a change, which may be null, is stored: now or later on another
// thread. Before that `again`, a function (PendingCommitPtr* stored) -> absl::Status that makes the change once more,
// runs as often as another server was faster.
template <typename Again, typename Answer>
void WhenStored(const PendingCommitPtr& pending, Again again, Answer answer) {
  if (pending == nullptr) return answer(absl::OkStatus());
  pending->Then([queue = pending->again(), again = std::move(again),
                 answer = std::move(answer)](const absl::Status& stored) mutable {
    if (!store::IsConflict(stored)) return answer(stored);
    queue->Add([again = std::move(again), answer = std::move(answer)]() mutable {
      PendingCommitPtr next;
      const absl::Status made = again(&next);
      if (!made.ok()) return answer(made);
      WhenStored(next, std::move(again), std::move(answer));
    });
  });
}

// Takes the changes of all layers to the store, in the order in which they come, all that wait in one transaction. What
// is stored is published; what cannot be stored is taken back, with all that was built on it. Where other servers
// write, a layer that one of them has changed is read again first. With a store that waits for the disk a thread does
// that; with others, whose transactions take less time than waking a thread does, whoever brings a change, for himself
// and for those who come meanwhile. Thread-safe.
class Committer {
 public:
  struct Change {
    // Null, within ChangeTogether only: the layer is not in the registry, yet or any more, and has nothing to publish.
    std::shared_ptr<LayerEntry> entry;
    store::Update update;
  };

  // `store` outlives this.
  explicit Committer(store::StateStore* store);
  // Ends when all that came is stored. REQUIRES: nothing comes any more.
  ~Committer();
  Committer(const Committer&) = delete;
  Committer& operator=(const Committer&) = delete;

  // Queues a change. Drive must follow. RESOURCE_EXHAUSTED: too many wait.
  absl::StatusOr<PendingCommitPtr> Submit(Change change);
  // Stores what is queued, or leaves that to a thread that does so already or will soon. REQUIRES: no lock of a layer
  // is held.
  void Drive();

  // Runs `use` when what came before is stored or taken back, and stores nothing meanwhile. REQUIRES: no lock of a
  // layer is held.
  absl::Status UseStore(absl::FunctionRef<absl::Status(store::StateStore*)> use) ABSL_NO_THREAD_SAFETY_ANALYSIS;

  // Whether other servers write, too.
  bool shared() const { return shared_ != nullptr; }
  // Makes the layer what is stored. REQUIRES: shared.
  absl::Status Refresh(const std::shared_ptr<LayerEntry>& entry);

  // Within UseStore: writes, and counts. Statuses of StateStore::Write.
  absl::Status Write(absl::Span<const store::Update> updates);

  CommitStatistics statistics() const;

 private:
  struct Waiting {
    Change change;
    PendingCommitPtr pending;
  };

  // Of thread_. These wait on condition variables, which the thread-safety analysis cannot follow.
  void Run() ABSL_NO_THREAD_SAFETY_ANALYSIS;
  // Stores what waits. REQUIRES: nobody drives. Whoever calls it holds `lock` on mutex_, and does so again afterwards.
  void StoreWaiting(std::unique_lock<std::mutex>* lock) ABSL_NO_THREAD_SAFETY_ANALYSIS;
  // All or none of those whose predecessors are stored; which these are. The others have been taken back.
  std::vector<PendingCommitPtr> Store(std::vector<Waiting> batch);
  // `update` is the one of `waiting`, which may have given it away.
  static void TakeBack(const Waiting& waiting, const store::Update& update, const absl::Status& cause);
  // While the store is used.
  absl::Status RefreshNow(LayerEntry* entry);

  store::StateStore* const store_;
  store::SharedStore* const shared_;
  // Null: no other server writes.
  const std::unique_ptr<AgainQueue> again_;
  base::Mutex mutex_;
  // thread_ may have something to do.
  std::condition_variable wake_;
  std::vector<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  // Somebody uses the store.
  bool driving_ ABSL_GUARDED_BY(mutex_) = false;
  // Those who wait for the end of that in UseStore; they come first.
  int users_ ABSL_GUARDED_BY(mutex_) = 0;
  std::condition_variable unused_;
  mutable base::Mutex statistics_mutex_;
  CommitStatistics statistics_ ABSL_GUARDED_BY(statistics_mutex_);
  // In Drive.
  int num_callers_ ABSL_GUARDED_BY(mutex_) = 0;
  // What waits is for thread_.
  bool handed_over_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Last: it runs as soon as it is made.
  std::thread thread_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_COMMITTER_H_
