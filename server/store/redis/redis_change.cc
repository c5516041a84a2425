#include "server/store/redis/redis_change.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/store/record_format.h"

namespace normd::store {
namespace {

// Lua hands no more than some thousand arguments to a command.
constexpr std::size_t kMostFields = 1000;

void Prepend(std::vector<RedisCommand> commands, std::vector<RedisCommand>* list) {
  list->insert(list->begin(), std::make_move_iterator(commands.begin()), std::make_move_iterator(commands.end()));
}

}  // namespace

std::string VersionField(const layer::LayerSnapshot& snapshot) {
  return absl::StrCat(snapshot.version, ":", snapshot.content_hash);
}

std::string ContributorField(absl::string_view name, int64_t sequence) {
  return absl::StrCat(sequence, ":", ContributorChecksum(name, sequence));
}

LayerPresence RedisChange::PresenceOf(const std::string& uid) const {
  for (const LayerPresences* presences : {&presences_, stored_}) {
    const auto found = presences->find(uid);
    if (found != presences->end()) return found->second;
  }
  return LayerPresence::kAbsent;
}

void RedisChange::Expect(const std::string& uid, std::string want) {
  if (!presences_.contains(uid)) checks_.push_back({keys_.layer(uid), std::move(want), uid});
}

std::vector<RedisCommand> RedisChange::SetFields(const std::string& key, const std::vector<std::string>& fields) {
  std::vector<RedisCommand> commands;
  for (std::size_t i = 0; i < fields.size(); i += 2 * kMostFields) {
    RedisCommand& command = commands.emplace_back(RedisCommand{"HSET", key});
    const auto begin = fields.begin() + static_cast<std::ptrdiff_t>(i);
    command.insert(command.end(), begin,
                   fields.end() - begin > static_cast<std::ptrdiff_t>(2 * kMostFields)
                       ? begin + static_cast<std::ptrdiff_t>(2 * kMostFields)
                       : fields.end());
  }
  return commands;
}

absl::Status RedisChange::Add(const Update& update, const std::string& staged) {
  if (update.put != nullptr) Put(update);
  if (update.remove.has_value()) {
    if (absl::Status status = Remove(*update.remove); !status.ok()) return status;
  }
  if (!update.forget.empty()) {
    // If it has to be undone: nobody asks for what is forgotten, and it is forgotten again.
    commands_.push_back({"HDEL", keys_.gone(), update.forget});
    commands_.push_back({"DEL", keys_.requests(update.forget)});
    presences_[update.forget] = LayerPresence::kAbsent;
  }
  if (update.put_snapshot != nullptr) {
    const std::string& name = update.put_snapshot->info.name;
    if (!staged.empty()) {
      checks_.push_back({keys_.staged(staged), "+", staged});
      commands_.push_back({"RENAME", keys_.staged(staged), keys_.snapshot(name)});
      commands_.push_back({"SREM", keys_.staging(), staged});
    }
    commands_.push_back({"HSET", keys_.snapshots(), name, EncodeInfo(update.put_snapshot->info)});
    Prepend({{"HDEL", keys_.snapshots(), name}, {"DEL", keys_.snapshot(name)}}, &undo_);
  }
  if (!update.remove_snapshot.empty()) {
    commands_.push_back({"HDEL", keys_.snapshots(), update.remove_snapshot});
    commands_.push_back({"DEL", keys_.snapshot(update.remove_snapshot)});
    can_be_undone_ = false;
  }
  if (update.request.has_value()) {
    const std::string key = keys_.requests(update.request->layer_uid);
    const std::string sequence = absl::StrCat(update.request->sequence);
    if (update.forget_through > 0) {
      commands_.push_back({"ZREMRANGEBYSCORE", key, "-inf", absl::StrCat(update.forget_through)});
    }
    commands_.push_back({"ZADD", key, sequence, EncodeRequest(*update.request)});
    Prepend({{"ZREMRANGEBYSCORE", key, sequence, sequence}}, &undo_);
  }
  return absl::OkStatus();
}

void RedisChange::Put(const Update& update) {
  const layer::LayerSnapshot& snapshot = *update.put;
  const layer::LayerSnapshot* const before = update.replaces.get();
  const std::string key = keys_.layer(snapshot.uid);
  const LayerPresence presence = PresenceOf(snapshot.uid);
  std::vector<std::string> fields = {"v", VersionField(snapshot), "statistics", EncodeVersion(snapshot)};
  const auto add_settings = [&](const layer::LayerSnapshot& of, std::vector<std::string>* to) {
    to->insert(to->end(), {"settings", EncodeSettings(of)});
  };
  const auto add_parameters = [&](const layer::LayerSnapshot& of, std::vector<std::string>* to) {
    to->insert(to->end(), {"parameters", EncodeParameters(of)});
  };

  if (presence != LayerPresence::kPresent || before == nullptr) {
    if (presence != LayerPresence::kPresent) Expect(snapshot.uid, "-");
    add_settings(snapshot, &fields);
    add_parameters(snapshot, &fields);
    Prepend({{"ZREM", keys_.index(), snapshot.uid}, {"DEL", key}, {"DEL", keys_.contributors(snapshot.uid)}}, &undo_);
    // What was there before is not in the update.
    if (presence != LayerPresence::kAbsent) can_be_undone_ = false;
    if (presence == LayerPresence::kGone) commands_.push_back({"HDEL", keys_.gone(), snapshot.uid});
    commands_.push_back({"ZADD", keys_.index(), "0", snapshot.uid});
    for (RedisCommand& command : SetFields(key, fields)) commands_.push_back(std::move(command));
    PutAllContributors(snapshot);
    presences_[snapshot.uid] = LayerPresence::kPresent;
    return;
  }

  Expect(snapshot.uid, VersionField(*before));
  std::vector<std::string> undo = {"v", VersionField(*before), "statistics", EncodeVersion(*before)};
  if (!ShareSettings(*before, snapshot)) {
    add_settings(snapshot, &fields);
    add_settings(*before, &undo);
  }
  if (!ShareParameters(*before, snapshot)) {
    add_parameters(snapshot, &fields);
    add_parameters(*before, &undo);
  }
  for (RedisCommand& command : SetFields(key, fields)) commands_.push_back(std::move(command));
  Prepend(SetFields(key, undo), &undo_);
  presences_[snapshot.uid] = LayerPresence::kPresent;

  if (before->contributors == snapshot.contributors) return;
  // None ever goes.
  const std::string contributors = keys_.contributors(snapshot.uid);
  std::vector<std::string> changed;
  std::vector<std::string> restored;
  std::vector<RedisCommand> back;
  snapshot.contributors->ForEachChange(*before->contributors, [&](absl::string_view name, int64_t sequence) {
    changed.insert(changed.end(), {std::string(name), ContributorField(name, sequence)});
    const int64_t last = before->contributors->LastSequence(name);
    if (last == 0) {
      back.push_back({"HDEL", contributors, std::string(name)});
    } else {
      restored.insert(restored.end(), {std::string(name), ContributorField(name, last)});
    }
  });
  for (RedisCommand& command : SetFields(contributors, changed)) commands_.push_back(std::move(command));
  for (RedisCommand& command : SetFields(contributors, restored)) back.push_back(std::move(command));
  Prepend(std::move(back), &undo_);
}

void RedisChange::PutAllContributors(const layer::LayerSnapshot& snapshot) {
  const std::string key = keys_.contributors(snapshot.uid);
  commands_.push_back({"DEL", key});
  std::vector<std::string> fields;
  snapshot.contributors->ForEach([&](absl::string_view name, int64_t sequence) {
    fields.insert(fields.end(), {std::string(name), ContributorField(name, sequence)});
  });
  for (RedisCommand& command : SetFields(key, fields)) commands_.push_back(std::move(command));
}

absl::Status RedisChange::Remove(const GoneLayer& gone) {
  if (PresenceOf(gone.uid) != LayerPresence::kPresent) {
    return absl::InternalError(absl::StrCat("state store: there is no layer with uid ", gone.uid));
  }
  Expect(gone.uid, "+");
  commands_.push_back({"ZREM", keys_.index(), gone.uid});
  commands_.push_back({"DEL", keys_.layer(gone.uid)});
  commands_.push_back({"DEL", keys_.contributors(gone.uid)});
  commands_.push_back({"HSET", keys_.gone(), gone.uid, EncodeGone(gone)});
  presences_[gone.uid] = LayerPresence::kGone;
  can_be_undone_ = false;
  return absl::OkStatus();
}

void RedisChange::AppendTo(std::vector<std::string>* keys, std::vector<std::string>* arguments) const {
  arguments->push_back(absl::StrCat(checks_.size()));
  for (const Check& check : checks_) {
    keys->push_back(check.key);
    arguments->push_back(check.want);
  }
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

std::unique_ptr<RedisChange> RedisChange::Undo() const {
  if (!can_be_undone_) return nullptr;
  auto undo = std::make_unique<RedisChange>(keys_, stored_);
  undo->commands_ = undo_;
  return undo;
}

}  // namespace normd::store
