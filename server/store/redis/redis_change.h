#ifndef NORMD_SERVER_STORE_REDIS_REDIS_CHANGE_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_CHANGE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/store/redis/redis_connection.h"
#include "server/store/redis/redis_keys.h"
#include "server/store/state_store.h"

namespace normd::store {

// The names of the layers that are stored, by uid, as far as this server knows: that decides how a change is written.
using LayerNames = absl::flat_hash_map<std::string, std::string>;

// What stands in field "v" of a layer.
std::string VersionField(const layer::LayerSnapshot& snapshot);
// What stands by the name of a contributor.
std::string ContributorField(absl::string_view name, int64_t sequence);

// Updates as one run of kWriteScript.
class RedisChange {
 public:
  // What must be stored for the change to build on it; see kWriteScript.
  struct Check {
    std::string key;
    std::string kind;
    std::string argument;
    std::string want;
    // Which layer that is; empty: what is no layer's.
    std::string uid;
  };

  // `stored` outlives it.
  RedisChange(const RedisKeys& keys, const LayerNames* stored) : keys_(keys), stored_(stored) {}

  // The next update. `staged`: under which id the layers of its snapshot are there already; empty: it has none.
  absl::Status Add(const Update& update, const std::string& staged);

  const std::vector<Check>& checks() const { return checks_; }
  const std::vector<RedisCommand>& commands() const { return commands_; }
  // Keys and arguments of the script from its checks on.
  void AppendTo(std::vector<std::string>* keys, std::vector<std::string>* arguments) const;
  std::size_t bytes() const;
  // Says to `names` what has changed.
  void UpdateNames(LayerNames* names) const;

 private:
  // The name of a layer that is there; null: it is not.
  const std::string* NameOf(const std::string& uid) const;
  // What the layer must be unless the change itself has made it so.
  void Expect(const std::string& uid, std::string kind, std::string argument, std::string want);
  void ExpectVersion(const layer::LayerSnapshot& snapshot);
  void Put(const Update& update);
  void PutNew(const layer::LayerSnapshot& snapshot);
  absl::Status Remove(const Update& update);
  void PutRequest(const Update& update);
  void PutAllContributors(const layer::LayerSnapshot& snapshot);
  void SetFields(const std::string& key, const std::vector<std::string>& fields);

  const RedisKeys keys_;
  const LayerNames* const stored_;
  std::vector<Check> checks_;
  std::vector<RedisCommand> commands_;
  // Uids, and what else the members of "changed" are.
  absl::btree_set<std::string> changed_;
  // Layers whose version, and lists of requests whose end, have been checked.
  absl::flat_hash_set<std::string> expected_;
  absl::flat_hash_set<std::string> expected_requests_;
  // What the change does to the names; an empty one goes.
  LayerNames names_;
  // Of names that the change itself has set free: whose they were.
  absl::flat_hash_map<std::string, std::string> freed_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_CHANGE_H_
