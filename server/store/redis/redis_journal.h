#ifndef NORMD_SERVER_STORE_REDIS_REDIS_JOURNAL_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_JOURNAL_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "server/store/redis/redis_change.h"
#include "server/store/redis/redis_client.h"
#include "server/store/redis/redis_keys.h"
#include "server/store/redis/redis_location.h"
#include "server/store/redis/redis_membership.h"
#include "server/store/state_store.h"

namespace normd::store {

// How far a server knows what all servers have changed.
struct RedisProgress {
  // Number of a change; all up to it are known.
  int64_t number = 0;
  // Of the client, when that was so. Another one may be to a Redis that has forgotten some, and counts anew.
  int connections = 0;
  // All layers have to be compared before anything is known.
  bool compare_all = false;
};

// Makes this server's changes, one after the other.
//
// Every change bears an id, which the server's journal in Redis holds, and names the id that it builds on. So a change
// may be sent again when no answer came; one of which nothing was heard for too long is looked for before the next one;
// and after a failover to a replica that had not heard of the latest changes, they are sent to it again, where no other
// server has gone another way by then. Not thread-safe.
class RedisJournal {
 public:
  // Is told what an operator should know.
  using Warn = std::function<void(const std::string&)>;

  // All that it is given outlives it.
  RedisJournal(const RedisLocation& location, RedisClient* client, LayerNames* names, RedisProgress* progress,
               Warn warn)
      : location_(location),
        keys_(location.prefix),
        warn_(std::move(warn)),
        client_(*client),
        names_(*names),
        progress_(*progress) {}

  // Before anything else, once. Removes what servers that are gone have left unfinished.
  absl::Status Start(const RedisMembership& member);

  // See StateStore and RedisStore.
  absl::Status Write(absl::Span<const Update> updates);

  // Brings the journal to where this server believes it is: takes over what was stored without its knowledge, or sends
  // again what was forgotten.
  absl::Status Reconcile();

  // What the journal in Redis says if all is well.
  const std::string& latest() const { return latest_; }
  // Not OK: nothing can be written any more.
  const absl::Status& broken() const { return broken_; }

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

  // `updates` as one change, without those of layers in `but`.
  absl::StatusOr<RedisChange> Build(absl::Span<const Update> updates, const std::vector<std::string>& but);
  // Under a name by which it is not found yet.
  absl::StatusOr<std::string> Stage(const NamedSnapshot& snapshot);
  Outcome Execute(const std::string& before, const std::string& after, const RedisChange& change, absl::Status* why);
  // The entries from the history's `first` on are not stored; the journal says `at`.
  absl::Status SendAgain(std::size_t first, std::string at);
  // One of them. Refused: it cannot be stored any more, whatever part of it.
  Outcome SendAgain(Entry* entry, const std::string& at, absl::Time deadline, absl::Status* why);
  void WarnOfLoss(const Entry& entry, const std::vector<std::string>& uids) const;
  void Remember(Entry entry);

  const RedisLocation& location_;
  const RedisKeys keys_;
  const Warn warn_;
  RedisClient& client_;
  LayerNames& names_;
  RedisProgress& progress_;
  // This server's.
  std::string id_;
  std::string latest_;
  // The latest changes, one after the other, up to latest_.
  std::deque<Entry> history_;
  std::size_t history_bytes_ = 0;
  // Changes that were answered with UNAVAILABLE although they may be stored. All build on latest_; so at most one of
  // them is.
  std::vector<Entry> doubts_;
  absl::Status broken_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_JOURNAL_H_
