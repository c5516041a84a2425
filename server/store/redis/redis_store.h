#ifndef NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/redis/redis_change.h"
#include "server/store/redis/redis_client.h"
#include "server/store/redis/redis_keys.h"
#include "server/store/redis/redis_location.h"
#include "server/store/redis/redis_membership.h"
#include "server/store/state_store.h"

namespace normd::store {

// Keeps the layers in Redis, where several servers may use them. All keys of a store stand in one hash slot, so that
// each Write, of however many layers, is one script on one master, also in a cluster, and refused if a layer is not
// what the change builds on.
//
// Every change bears an id, which the server's journal holds, and names the id that it builds on. So a change may be
// sent again when no answer came; one of which nothing was heard for too long is looked for before the next one; and
// after a failover to a replica that had not heard of the latest changes, they are sent to it again, where no other
// server has gone another way by then. Not thread-safe.
class RedisStore final : public StateStore, public SharedStore {
 public:
  // Is told what an operator should know.
  using Warn = std::function<void(const std::string&)>;

  // FAILED_PRECONDITION: a server uses it that does not share, or Redis does not let us in. UNAVAILABLE: it does not
  // answer.
  static absl::StatusOr<std::unique_ptr<RedisStore>> Open(
      const RedisLocation& location, Warn warn = [](const std::string&) {});
  ~RedisStore() override;

  absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                    absl::FunctionRef<absl::Status(RequestRecord)> request) override;
  // ABORTED (see IsConflict): what is stored is not what an update replaces. FAILED_PRECONDITION: Redis has lost the
  // store; nothing can be written until a restart.
  absl::Status Write(absl::Span<const Update> updates) override;
  absl::StatusOr<std::vector<GoneLayer>> ListGone() override;
  absl::StatusOr<std::vector<SnapshotInfo>> ListSnapshots() override;
  absl::Status ReadSnapshot(const std::string& name, absl::FunctionRef<absl::Status(SnapshotPtr)> layer) override;
  absl::StatusOr<std::unique_ptr<BackupCopy>> StartBackup(const std::string& path) override;
  // A round trip costs more than waking a thread, and while Redis fails it takes seconds.
  bool waits_for_disk() const override { return true; }
  SharedStore* shared() override { return this; }

  absl::StatusOr<Changes> ReadChanges() override;
  absl::Status ReadLayers(absl::Span<const Query> queries,
                          absl::FunctionRef<void(const Query&, StoredLayer)> use) override;
  absl::Duration poll_interval() const override { return location_.poll_interval; }

 private:
  // A change with its place in the order of this server's.
  struct Entry {
    // Ids in the journal.
    std::string before;
    std::string after;
    std::vector<Update> updates;
    std::size_t bytes = 0;
  };
  enum class Outcome {
    kStored,
    // Nothing has changed, for the reason in the status.
    kRefused,
    // The journal does not say what the entry builds on.
    kOutOfStep,
    kUnknown,
  };

  RedisStore(const RedisLocation& location, Warn warn)
      : location_(location), warn_(std::move(warn)), keys_(location.prefix), client_(location) {}

  // `updates` as one change, without those of layers in `but`.
  absl::StatusOr<RedisChange> Build(absl::Span<const Update> updates, const std::vector<std::string>& but);
  Outcome Execute(const std::string& before, const std::string& after, const RedisChange& change, absl::Status* why);
  // Brings the journal to where this server believes it is: takes over what was stored without its knowledge, or sends
  // again what was forgotten.
  absl::Status Reconcile();
  // The entries from the history's `first` on are not stored; the journal says `at`.
  absl::Status SendAgain(std::size_t first, std::string at);
  // One of them. Refused: it cannot be stored any more, whatever part of it.
  Outcome SendAgain(Entry* entry, const std::string& at, absl::Time deadline, absl::Status* why);
  void WarnOfLoss(const Entry& entry, const std::vector<std::string>& uids) const;
  void Remember(Entry entry);
  // Under a name by which it is not found yet.
  absl::StatusOr<std::string> Stage(const NamedSnapshot& snapshot);
  absl::Status RemoveStaged();
  // Of all layers.
  absl::Status CompareAll(Changes* changes);
  // Replies to commands that read, none of which is an error.
  absl::StatusOr<std::vector<RedisReply>> Read(absl::Span<const RedisCommand> commands);
  absl::Status LoadLayers(absl::Span<const std::string> uids, absl::FunctionRef<absl::Status(SnapshotPtr)> layer);
  absl::Status LoadRequests(absl::Span<const std::string> uids, absl::FunctionRef<absl::Status(RequestRecord)> request);
  absl::Status TryReadLayers(absl::Span<const Query> queries, absl::FunctionRef<void(const Query&, StoredLayer)> use);
  absl::Status ReadRequests(const Query& query, redisReply* reply, StoredLayer* layer);

  const RedisLocation location_;
  const Warn warn_;
  const RedisKeys keys_;
  RedisClient client_;
  RedisMembership member_;
  // What this server's journal says if all is well.
  std::string journal_;
  // The latest changes, one after the other, up to journal_.
  std::deque<Entry> history_;
  std::size_t history_bytes_ = 0;
  // Changes that were answered with UNAVAILABLE although they may be stored. All build on journal_; so at most one of
  // them is.
  std::vector<Entry> doubts_;
  // Not OK: for good.
  absl::Status broken_;
  LayerNames names_;
  // Number of a change; all up to it are known.
  int64_t seen_ = 0;
  // Of the client, when that was so. Another one may be to a Redis that has forgotten some, and counts anew.
  int connections_ = 0;
  // The next ReadChanges compares all layers.
  bool compare_all_ = false;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_
