#ifndef NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_

#include <cstddef>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/redis/redis_change.h"
#include "server/store/redis/redis_client.h"
#include "server/store/redis/redis_keys.h"
#include "server/store/redis/redis_lease.h"
#include "server/store/redis/redis_location.h"
#include "server/store/state_store.h"

namespace normd::store {

// Keeps the layers in Redis. All keys of a store stand in one hash slot, so that each Write, of however many layers, is
// one script on one master, also in a cluster.
//
// Every change bears an id, which the journal key holds, and names the id that it builds on. So a change may be sent
// again when no answer came; one of which nothing was heard for too long is undone before the next one; and after a
// failover to a replica that had not heard of the latest changes, they are sent to it again. Not thread-safe.
class RedisStore final : public StateStore {
 public:
  // FAILED_PRECONDITION: another server uses it, or Redis does not let us in. UNAVAILABLE: it does not answer.
  static absl::StatusOr<std::unique_ptr<RedisStore>> Open(const RedisLocation& location);

  absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                    absl::FunctionRef<absl::Status(RequestRecord)> request) override;
  // ABORTED: what is stored is not what an update replaces. FAILED_PRECONDITION: another server has the store now, or
  // what is stored is not what this one has written; nothing can be written until a restart.
  absl::Status Write(absl::Span<const Update> updates) override;
  absl::StatusOr<std::vector<GoneLayer>> ListGone() override;
  absl::StatusOr<std::vector<SnapshotInfo>> ListSnapshots() override;
  absl::Status ReadSnapshot(const std::string& name, absl::FunctionRef<absl::Status(SnapshotPtr)> layer) override;
  absl::StatusOr<std::unique_ptr<BackupCopy>> StartBackup(const std::string& path) override;
  // A round trip costs more than waking a thread, and while Redis fails it takes seconds.
  bool waits_for_disk() const override { return true; }

 private:
  // A change with its place in the order of all.
  struct Entry {
    // Ids in the journal.
    std::string before;
    std::string after;
    // Of kWriteScript.
    std::vector<std::string> keys;
    std::vector<std::string> arguments;
    std::size_t bytes = 0;
  };
  // A change that was answered with UNAVAILABLE although it may be stored.
  struct Doubt {
    Entry entry;
    // Null: it cannot be undone.
    std::unique_ptr<RedisChange> undo;
  };
  enum class Outcome {
    kStored,
    // Nothing has changed, for the reason in the status.
    kRefused,
    // The journal does not say what the entry builds on, or a failover has forgotten who writes.
    kOutOfStep,
    kUnknown,
  };

  RedisStore(const RedisLocation& location, std::unique_ptr<RedisLease> lease)
      : location_(location), keys_(location.prefix), lease_(std::move(lease)), client_(location) {}

  Entry NewEntry(const std::string& before, const RedisChange& change) const;
  Outcome Execute(const Entry& entry, const std::vector<RedisChange::Check>& checks, absl::Status* why);
  // Brings what is stored to where this server believes it is: undoes, or sends again.
  absl::Status Reconcile();
  absl::Status UndoDoubt(Doubt doubt);
  absl::Status SendAgain(std::size_t first);
  void Remember(Entry entry);
  // Under a name by which it is not found yet.
  absl::StatusOr<std::string> Stage(const NamedSnapshot& snapshot);
  absl::Status RemoveStaged();
  // Replies to commands that read, none of which is an error.
  absl::StatusOr<std::vector<RedisReply>> Read(absl::Span<const RedisCommand> commands);
  absl::Status LoadLayers(absl::Span<const std::string> uids, absl::FunctionRef<absl::Status(SnapshotPtr)> layer);
  absl::Status LoadRequests(absl::Span<const std::string> uids, absl::FunctionRef<absl::Status(RequestRecord)> request);

  const RedisLocation location_;
  const RedisKeys keys_;
  const std::unique_ptr<RedisLease> lease_;
  RedisClient client_;
  // What the journal says if all is well.
  std::string journal_;
  // The latest changes, one after the other, up to journal_.
  std::deque<Entry> history_;
  std::size_t history_bytes_ = 0;
  // All build on journal_; so at most one of them is stored.
  std::vector<Doubt> doubts_;
  // Not OK: for good.
  absl::Status broken_;
  LayerPresences presences_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_
