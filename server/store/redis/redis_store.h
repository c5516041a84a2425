#ifndef NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/redis/redis_change.h"
#include "server/store/redis/redis_client.h"
#include "server/store/redis/redis_journal.h"
#include "server/store/redis/redis_keys.h"
#include "server/store/redis/redis_location.h"
#include "server/store/redis/redis_membership.h"
#include "server/store/state_store.h"

namespace normd::store {

// Keeps the layers in Redis, where several servers may use them. All keys of a store stand in one hash slot, so that
// each Write, of however many layers, is one script on one master, also in a cluster, and refused if a layer is not
// what the change builds on. Not thread-safe.
class RedisStore final : public StateStore, public SharedStore {
 public:
  using Warn = RedisJournal::Warn;

  // FAILED_PRECONDITION: a server uses it that does not share, or Redis does not let us in. UNAVAILABLE: it does not
  // answer.
  static absl::StatusOr<std::unique_ptr<RedisStore>> Open(
      const RedisLocation& location, Warn warn = [](const std::string&) {});
  ~RedisStore() override;

  absl::Status Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                    absl::FunctionRef<absl::Status(RequestRecord)> request) override;
  // ABORTED (see IsConflict): what is stored is not what an update replaces. FAILED_PRECONDITION: Redis has lost the
  // store; nothing can be written until a restart.
  absl::Status Write(absl::Span<const Update> updates) override { return journal_.Write(updates); }
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
  RedisStore(const RedisLocation& location, Warn warn)
      : location_(location),
        keys_(location.prefix),
        client_(location),
        journal_(location_, &client_, &names_, &progress_, std::move(warn)) {}

  // Of all layers.
  absl::Status CompareAll(Changes* changes);
  absl::Status LoadLayers(absl::Span<const std::string> uids, absl::FunctionRef<absl::Status(SnapshotPtr)> layer);
  absl::Status LoadRequests(absl::Span<const std::string> uids, absl::FunctionRef<absl::Status(RequestRecord)> request);
  absl::Status TryReadLayers(absl::Span<const Query> queries, absl::FunctionRef<void(const Query&, StoredLayer)> use);
  absl::Status ReadRequests(const Query& query, redisReply* reply, StoredLayer* layer);

  const RedisLocation location_;
  const RedisKeys keys_;
  RedisClient client_;
  RedisMembership member_;
  LayerNames names_;
  RedisProgress progress_;
  RedisJournal journal_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_STORE_H_
