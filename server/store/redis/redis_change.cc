#include "server/store/redis/redis_change.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/store/record_format.h"

namespace normd::store {
namespace {

// Lua hands no more than some thousand arguments to a command.
constexpr std::size_t kMostFields = 1000;

}  // namespace

std::string VersionField(const layer::LayerSnapshot& snapshot) {
  return absl::StrCat(snapshot.version, ":", snapshot.content_hash);
}

std::string ContributorField(absl::string_view name, int64_t sequence) {
  return absl::StrCat(sequence, ":", ContributorChecksum(name, sequence));
}

const std::string* RedisChange::NameOf(const std::string& uid) const {
  for (const LayerNames* names : {&names_, stored_}) {
    const auto found = names->find(uid);
    if (found != names->end()) return found->second.empty() ? nullptr : &found->second;
  }
  return nullptr;
}

void RedisChange::UpdateNames(LayerNames* names) const {
  for (const auto& [uid, name] : names_) {
    if (name.empty()) {
      names->erase(uid);
    } else {
      (*names)[uid] = name;
    }
  }
}

void RedisChange::Expect(const std::string& uid, std::string kind, std::string argument, std::string want) {
  if (!expected_.insert(uid).second) return;
  checks_.push_back({keys_.layer(uid), std::move(kind), std::move(argument), std::move(want), uid});
}

void RedisChange::ExpectVersion(const layer::LayerSnapshot& snapshot) {
  Expect(snapshot.uid, "field", "v", VersionField(snapshot));
}

void RedisChange::SetFields(const std::string& key, const std::vector<std::string>& fields) {
  for (std::size_t i = 0; i < fields.size(); i += 2 * kMostFields) {
    RedisCommand& command = commands_.emplace_back(RedisCommand{"HSET", key});
    const std::size_t end = std::min(fields.size(), i + 2 * kMostFields);
    command.insert(command.end(), fields.begin() + static_cast<std::ptrdiff_t>(i),
                   fields.begin() + static_cast<std::ptrdiff_t>(end));
  }
}

absl::Status RedisChange::Add(const Update& update, const std::string& staged) {
  if (update.put != nullptr) Put(update);
  if (update.remove.has_value()) {
    if (absl::Status status = Remove(update); !status.ok()) return status;
  }
  if (!update.forget.empty()) {
    // Another server may have brought it back.
    Expect(update.forget, "exists", "", "-");
    commands_.push_back({"HDEL", keys_.gone(), update.forget});
    commands_.push_back({"DEL", keys_.requests(update.forget)});
    commands_.push_back({"ZREM", keys_.changed(), update.forget});
  }
  if (update.put_snapshot != nullptr) {
    const std::string& name = update.put_snapshot->info.name;
    checks_.push_back({keys_.snapshots(), "has", name, "-", ""});
    if (!staged.empty()) {
      checks_.push_back({keys_.staged(staged), "exists", "", "+", ""});
      commands_.push_back({"RENAME", keys_.staged(staged), keys_.snapshot(name)});
      commands_.push_back({"SREM", keys_.staging(), staged});
    }
    commands_.push_back({"HSET", keys_.snapshots(), name, EncodeInfo(update.put_snapshot->info)});
    changed_.insert(RedisKeys::kSnapshots);
  }
  if (!update.remove_snapshot.empty()) {
    checks_.push_back({keys_.snapshots(), "has", update.remove_snapshot, "+", ""});
    commands_.push_back({"HDEL", keys_.snapshots(), update.remove_snapshot});
    commands_.push_back({"DEL", keys_.snapshot(update.remove_snapshot)});
    changed_.insert(RedisKeys::kSnapshots);
  }
  if (update.request.has_value()) PutRequest(update);
  return absl::OkStatus();
}

void RedisChange::PutRequest(const Update& update) {
  const std::string& uid = update.request->layer_uid;
  const std::string key = keys_.requests(uid);
  // What the change says of the layer holds for the version that it has.
  if (update.put == nullptr && update.replaces != nullptr) ExpectVersion(*update.replaces);
  // Whoever knows the latest record knows all, and so whether the request has been carried out.
  if (expected_requests_.insert(uid).second && update.request_after >= 0) {
    checks_.push_back({key, "last", "", absl::StrCat(update.request_after), uid});
  }
  if (update.forget_through > 0) {
    commands_.push_back({"ZREMRANGEBYSCORE", key, "-inf", absl::StrCat(update.forget_through)});
  }
  commands_.push_back({"ZADD", key, absl::StrCat(update.request->sequence), EncodeRequest(*update.request)});
  changed_.insert(uid);
}

void RedisChange::Put(const Update& update) {
  const layer::LayerSnapshot& snapshot = *update.put;
  const layer::LayerSnapshot* const before = update.replaces.get();
  changed_.insert(snapshot.uid);
  if (before == nullptr) return PutNew(snapshot);

  ExpectVersion(*before);
  std::vector<std::string> fields = {"v", VersionField(snapshot), "statistics", EncodeVersion(snapshot)};
  if (!ShareSettings(*before, snapshot)) fields.insert(fields.end(), {"settings", EncodeSettings(snapshot)});
  if (!ShareParameters(*before, snapshot)) fields.insert(fields.end(), {"parameters", EncodeParameters(snapshot)});
  SetFields(keys_.layer(snapshot.uid), fields);
  if (before->contributors == snapshot.contributors) return;
  // None ever goes.
  std::vector<std::string> changed;
  snapshot.contributors->ForEachChange(*before->contributors, [&](absl::string_view name, int64_t sequence) {
    changed.insert(changed.end(), {std::string(name), ContributorField(name, sequence)});
  });
  SetFields(keys_.contributors(snapshot.uid), changed);
}

void RedisChange::PutNew(const layer::LayerSnapshot& snapshot) {
  if (NameOf(snapshot.uid) == nullptr) {
    Expect(snapshot.uid, "exists", "", "-");
    const auto freed = freed_.find(snapshot.name);
    checks_.push_back({keys_.names(), "field", snapshot.name, freed == freed_.end() ? "-" : freed->second, ""});
  }
  commands_.push_back({"HDEL", keys_.gone(), snapshot.uid});
  commands_.push_back({"ZADD", keys_.index(), "0", snapshot.uid});
  commands_.push_back({"HSET", keys_.names(), snapshot.name, snapshot.uid});
  SetFields(keys_.layer(snapshot.uid), {"v", VersionField(snapshot), "statistics", EncodeVersion(snapshot), "settings",
                                        EncodeSettings(snapshot), "parameters", EncodeParameters(snapshot)});
  PutAllContributors(snapshot);
  names_[snapshot.uid] = snapshot.name;
}

void RedisChange::PutAllContributors(const layer::LayerSnapshot& snapshot) {
  const std::string key = keys_.contributors(snapshot.uid);
  commands_.push_back({"DEL", key});
  std::vector<std::string> fields;
  snapshot.contributors->ForEach([&](absl::string_view name, int64_t sequence) {
    fields.insert(fields.end(), {std::string(name), ContributorField(name, sequence)});
  });
  SetFields(key, fields);
}

absl::Status RedisChange::Remove(const Update& update) {
  const GoneLayer& gone = *update.remove;
  const std::string* const name = NameOf(gone.uid);
  if (name == nullptr) {
    return ConflictError(absl::StrCat("state store: there is no layer with uid ", gone.uid), {gone.uid});
  }
  if (update.replaces != nullptr) {
    ExpectVersion(*update.replaces);
  } else {
    Expect(gone.uid, "exists", "", "+");
  }
  commands_.push_back({"ZREM", keys_.index(), gone.uid});
  commands_.push_back({"HDEL", keys_.names(), *name});
  commands_.push_back({"DEL", keys_.layer(gone.uid)});
  commands_.push_back({"DEL", keys_.contributors(gone.uid)});
  commands_.push_back({"HSET", keys_.gone(), gone.uid, EncodeGone(gone)});
  changed_.insert(gone.uid);
  freed_[*name] = gone.uid;
  names_[gone.uid].clear();
  return absl::OkStatus();
}

void RedisChange::AppendTo(std::vector<std::string>* keys, std::vector<std::string>* arguments) const {
  arguments->push_back(absl::StrCat(checks_.size()));
  for (const Check& check : checks_) {
    keys->push_back(check.key);
    arguments->insert(arguments->end(), {check.kind, check.argument, check.want});
  }
  arguments->push_back(absl::StrCat(changed_.size()));
  arguments->insert(arguments->end(), changed_.begin(), changed_.end());
  for (const RedisCommand& command : commands_) {
    keys->push_back(command[1]);
    arguments->push_back(absl::StrCat(command.size() - 2));
    arguments->push_back(command[0]);
    arguments->insert(arguments->end(), command.begin() + 2, command.end());
  }
}

std::size_t RedisChange::bytes() const {
  std::size_t bytes = 0;
  for (const RedisCommand& command : commands_) {
    for (const std::string& argument : command) bytes += argument.size();
  }
  return bytes;
}

}  // namespace normd::store
