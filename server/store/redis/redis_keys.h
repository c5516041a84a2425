#ifndef NORMD_SERVER_STORE_REDIS_REDIS_KEYS_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_KEYS_H_

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace normd::store {

// Where things stand in Redis (docs/adr/2026-11-26-redis-store.md). All in one hash slot.
class RedisKeys {
 public:
  explicit RedisKeys(absl::string_view prefix) : start_(absl::StrCat("{", prefix, "}:")) {}

  std::string format() const { return Key("format"); }
  // Hash: id of the latest change of each server.
  std::string journals() const { return Key("journals"); }
  // Sorted set of "ID who that is" of the servers, by the time of the latest sign of life in milliseconds.
  std::string servers() const { return Key("servers"); }
  // Number of the latest change of all.
  std::string changes() const { return Key("changes"); }
  // Sorted set of what has changed, by the number of the latest change of each: uids of layers, empty for the records
  // that are no layer's, and kSnapshots.
  std::string changed() const { return Key("changed"); }
  static constexpr char kSnapshots[] = "/snapshots";
  // Hash: uid of the layer that has a name.
  std::string names() const { return Key("names"); }
  // Of format 1: "NUMBER:ID" of the only server that wrote, and who that was, for as long as it lived.
  std::string owner() const { return Key("owner"); }
  std::string lease() const { return Key("lease"); }
  // Sorted set of the uids of the layers.
  std::string index() const { return Key("index"); }
  // Hash: v (VERSION:CONTENT_HASH), settings, statistics, parameters.
  std::string layer(absl::string_view uid) const { return Key("layer:", uid); }
  // Hash: SEQUENCE:CHECKSUM by name.
  std::string contributors(absl::string_view uid) const { return Key("contributors:", uid); }
  // What the keys of layers begin with, and those of records.
  std::string layers() const { return Key("layer:"); }
  std::string all_requests() const { return Key("requests:"); }
  // Sorted set of records by sequence.
  std::string requests(absl::string_view uid) const { return Key("requests:", uid); }
  // Hash: records by uid.
  std::string gone() const { return Key("gone"); }
  // Hash: records by name.
  std::string snapshots() const { return Key("snapshots"); }
  // Hash: layers by number.
  std::string snapshot(absl::string_view name) const { return Key("snapshot:", name); }
  // The same, before it counts. Set of those that there may be.
  std::string staged(absl::string_view id) const { return Key("staged:", id); }
  std::string staging() const { return Key("staging"); }

 private:
  std::string Key(absl::string_view kind, absl::string_view name = "") const {
    return absl::StrCat(start_, kind, name);
  }

  std::string start_;
};

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_KEYS_H_
