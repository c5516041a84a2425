#ifndef NORMD_SERVER_STORE_REDIS_REDIS_CHANGE_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_CHANGE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/store/redis/redis_connection.h"
#include "server/store/redis/redis_keys.h"
#include "server/store/state_store.h"

namespace normd::store {

// Which layers are stored, as far as it decides how a change is written.
enum class LayerPresence { kAbsent, kPresent, kGone };
using LayerPresences = absl::flat_hash_map<std::string, LayerPresence>;

// What stands in field "v" of a layer.
std::string VersionField(const layer::LayerSnapshot& snapshot);
// What stands by the name of a contributor.
std::string ContributorField(absl::string_view name, int64_t sequence);

// Updates as one run of kWriteScript.
class RedisChange {
 public:
  // What must be stored under a key for the change to build on it.
  struct Check {
    std::string key;
    std::string want;
    // Which layer that is, for an error.
    std::string uid;
  };

  // `stored` outlives it.
  RedisChange(const RedisKeys& keys, const LayerPresences* stored) : keys_(keys), stored_(stored) {}

  // The next update. `staged`: under which id the layers of its snapshot are there already; empty: it has none.
  absl::Status Add(const Update& update, const std::string& staged);

  const std::vector<Check>& checks() const { return checks_; }
  const std::vector<RedisCommand>& commands() const { return commands_; }
  // Keys and arguments of the script from its checks on.
  void AppendTo(std::vector<std::string>* keys, std::vector<std::string>* arguments) const;
  std::size_t bytes() const;
  // Of what was changed.
  const LayerPresences& presences() const { return presences_; }

  // Makes what is stored what it was before. Null: that is not known.
  std::unique_ptr<RedisChange> Undo() const;

 private:
  LayerPresence PresenceOf(const std::string& uid) const;
  // What the layer must be unless the change itself has made it so.
  void Expect(const std::string& uid, std::string want);
  void Put(const Update& update);
  absl::Status Remove(const GoneLayer& gone);
  void PutAllContributors(const layer::LayerSnapshot& snapshot);
  static std::vector<RedisCommand> SetFields(const std::string& key, const std::vector<std::string>& fields);

  const RedisKeys keys_;
  const LayerPresences* const stored_;
  std::vector<Check> checks_;
  std::vector<RedisCommand> commands_;
  // In the order in which they are to be carried out.
  std::vector<RedisCommand> undo_;
  bool can_be_undone_ = true;
  LayerPresences presences_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_CHANGE_H_
