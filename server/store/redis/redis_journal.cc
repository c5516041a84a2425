#include "server/store/redis/redis_journal.h"

#include <algorithm>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "server/base/uid.h"
#include "server/store/record_format.h"
#include "server/store/redis/redis_scripts.h"

namespace normd::store {
namespace {

// A script holds Redis up while it runs, and Redis takes no command of more than some hundred megabytes.
constexpr std::size_t kMostBytes = 256 << 20;
// What a replica that becomes the master may be behind.
constexpr std::size_t kHistoryBytes = 64 << 20;
constexpr std::size_t kHistorySize = 100'000;
// A change that finds the store out of step is tried again so often.
constexpr int kRounds = 5;
// Until a change that was forgotten is sent again, if what it builds on is not there yet.
constexpr absl::Duration kPauseForOthers = absl::Milliseconds(20);

// About what remembering an update takes, if its layer shares what it can with the version before. A script may be much
// shorter: of a thousand contributors it names the one that has changed.
std::size_t MemoryOf(const Update& update) {
  if (update.put == nullptr) return sizeof(Update);
  const layer::LayerSnapshot& snapshot = *update.put;
  const layer::Statistics& statistics = *snapshot.statistics;
  std::size_t values = statistics.running_mean.size() + statistics.running_var.size() + statistics.sample_count.size() +
                       statistics.skipped_batches.size();
  if (update.replaces == nullptr || update.replaces->contributors != snapshot.contributors) {
    values += snapshot.contributors->size();
  }
  return sizeof(Update) + sizeof(layer::LayerSnapshot) + values * sizeof(double);
}

// The layer that an update is of.
std::string UidOf(const Update& update) {
  if (update.put != nullptr) return update.put->uid;
  return update.request.has_value() ? update.request->layer_uid : "";
}

// Of pairs: the number of a check, and what is stored.
absl::Status Conflict(absl::Span<redisReply* const> failures, const std::vector<RedisChange::Check>& checks) {
  std::string message = "state store: ";
  std::vector<std::string> uids;
  for (std::size_t i = 0; i + 1 < failures.size(); i += 2) {
    std::size_t number = 0;
    if (!absl::SimpleAtoi(Text(*failures[i]), &number) || number < 1 || number > checks.size()) continue;
    const RedisChange::Check& check = checks[number - 1];
    if (!absl::c_linear_search(uids, check.uid)) uids.push_back(check.uid);
    if (i > 0) continue;
    absl::StrAppend(&message,
                    check.kind == "field" && check.argument == "v"
                        ? absl::StrCat("the layer with uid ", check.uid, " has version ")
                        : absl::StrCat(check.key, " ", check.argument, " is "),
                    Text(*failures[i + 1]), " (\"-\": none), and the change builds on ", check.want);
  }
  return ConflictError(message, uids);
}

}  // namespace

absl::Status RedisJournal::Start(const RedisMembership& member) {
  id_ = member.id();
  latest_ = member.first_journal();
  const RedisCommand get[] = {{"SMEMBERS", keys_.staging()}, {"HKEYS", keys_.journals()}};
  absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(get);
  if (!replies.ok()) return replies.status();
  absl::flat_hash_set<std::string> servers;
  for (const redisReply* server : Elements(*(*replies)[1])) servers.emplace(Text(*server));
  std::vector<RedisCommand> commands;
  for (const redisReply* id : Elements(*replies->front())) {
    // What another server is bringing stays.
    const std::pair<std::string, std::string> parts = absl::StrSplit(Text(*id), absl::MaxSplits(':', 1));
    if (servers.contains(parts.first)) continue;
    commands.push_back({"UNLINK", keys_.staged(Text(*id))});
    commands.push_back({"SREM", keys_.staging(), std::string(Text(*id))});
  }
  return commands.empty() ? absl::OkStatus() : client_.RunChecked(commands).status();
}

absl::StatusOr<std::string> RedisJournal::Stage(const NamedSnapshot& snapshot) {
  const std::string id = absl::StrCat(id_, ":", base::NewUid());
  const std::string key = keys_.staged(id);
  std::vector<RedisCommand> commands = {{"SADD", keys_.staging(), id}};
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < snapshot.layers.size(); ++i) {
    commands.push_back({"HSET", key, absl::StrCat(i), EncodeLayer(*snapshot.layers[i])});
    bytes += commands.back().back().size();
    if (i + 1 < snapshot.layers.size() && bytes < (1 << 20)) continue;
    if (absl::Status status = client_.RunChecked(commands).status(); !status.ok()) return status;
    commands.clear();
    bytes = 0;
  }
  return snapshot.layers.empty() ? "" : id;
}

absl::StatusOr<RedisChange> RedisJournal::Build(absl::Span<const Update> updates, const std::vector<std::string>& but) {
  RedisChange change(keys_, &names_);
  for (const Update& update : updates) {
    if (!but.empty() && absl::c_linear_search(but, UidOf(update))) continue;
    std::string staged;
    if (update.put_snapshot != nullptr) {
      absl::StatusOr<std::string> id = Stage(*update.put_snapshot);
      if (!id.ok()) return id.status();
      staged = *std::move(id);
    }
    if (absl::Status status = change.Add(update, staged); !status.ok()) return status;
  }
  return change;
}

absl::Status RedisJournal::Write(absl::Span<const Update> updates) {
  if (!broken_.ok()) return broken_;
  absl::StatusOr<RedisChange> change = Build(updates, {});
  if (!change.ok()) return change.status();
  if (change->bytes() > kMostBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("state store: the change has ", change->bytes(),
                                                     " bytes, and Redis takes at most ", kMostBytes, " at once"));
  }
  // One id for all attempts: whichever comes through, the others find it.
  Entry entry{
      .before = {}, .after = base::NewUid(), .updates = {updates.begin(), updates.end()}, .bytes = change->bytes()};
  std::size_t memory = 0;
  for (const Update& update : updates) memory += MemoryOf(update);
  entry.bytes = std::max(entry.bytes, memory);
  bool in_step = doubts_.empty();
  bool sent = false;
  for (int round = 0; round < kRounds; ++round) {
    if (!in_step) {
      absl::Status status = Reconcile();
      // An attempt at this very change may have been carried out.
      if (sent && absl::IsUnavailable(status)) return OutcomeUnknownError(status.message());
      if (!status.ok()) return status;
      if (latest_ == entry.after) {
        change->UpdateNames(&names_);
        return absl::OkStatus();
      }
    }
    entry.before = latest_;
    absl::Status why;
    switch (Execute(entry.before, entry.after, *change, &why)) {
      case Outcome::kStored:
        Remember(std::move(entry));
        // What was sent before and has not come by now is refused when it comes.
        doubts_.clear();
        change->UpdateNames(&names_);
        return absl::OkStatus();
      case Outcome::kRefused:
        return why;
      case Outcome::kOutOfStep:
        // An attempt of which nothing was heard may still arrive.
        doubts_.push_back(entry);
        sent = true;
        in_step = false;
        break;
      case Outcome::kUnknown:
        doubts_.push_back(std::move(entry));
        return OutcomeUnknownError(why.message());
    }
  }
  return absl::UnavailableError("state store: Redis changes its master all the time");
}

RedisJournal::Outcome RedisJournal::Execute(const std::string& before, const std::string& after,
                                            const RedisChange& change, absl::Status* why) {
  std::vector<std::string> keys = {keys_.journals(), keys_.changes(), keys_.changed()};
  std::vector<std::string> arguments = {id_, before, after};
  change.AppendTo(&keys, &arguments);
  std::vector<RedisCommand> wait;
  if (location_.wait_replicas > 0) {
    wait.push_back({"WAIT", absl::StrCat(location_.wait_replicas),
                    absl::StrCat(absl::ToInt64Milliseconds(location_.wait_timeout))});
  }
  const absl::Time deadline = absl::Now() + location_.retry_time;
  while (true) {
    bool unknown = false;
    absl::StatusOr<std::vector<RedisReply>> replies = client_.Eval(kWriteScript, keys, arguments, wait, &unknown);
    if (!replies.ok()) {
      *why = replies.status();
      return unknown ? Outcome::kUnknown : Outcome::kRefused;
    }
    if (replies->front()->type == REDIS_REPLY_ERROR) {
      *why = ReplyStatus(*replies->front());
      return unknown ? Outcome::kUnknown : Outcome::kRefused;
    }
    const absl::Span<redisReply* const> answer = Elements(*replies->front());
    const absl::string_view kind = answer.empty() ? "" : Text(*answer[0]);
    if (kind == "journal") return Outcome::kOutOfStep;
    if (kind == "conflict") {
      *why = Conflict(answer.subspan(1), change.checks());
      return Outcome::kRefused;
    }
    int64_t number = 0;
    if (kind != "ok" || answer.size() != 2 || !absl::SimpleAtoi(Text(*answer[1]), &number)) {
      *why = absl::InternalError("state store: Redis gave an unknown answer");
      return Outcome::kUnknown;
    }
    if (wait.empty() || (*replies)[1]->integer >= location_.wait_replicas) {
      // If there was one in between, all since are asked for once more.
      if (number == progress_.number + 1 && progress_.connections == client_.connections()) progress_.number = number;
      return Outcome::kStored;
    }
    if (absl::Now() >= deadline) {
      *why = absl::UnavailableError(absl::StrCat("state store: ", (*replies)[1]->integer,
                                                 " replicas have the change in time, want ", location_.wait_replicas));
      return Outcome::kUnknown;
    }
  }
}

void RedisJournal::Remember(Entry entry) {
  latest_ = entry.after;
  history_bytes_ += entry.bytes;
  history_.push_back(std::move(entry));
  while (history_.size() > 1 && (history_bytes_ > kHistoryBytes || history_.size() > kHistorySize)) {
    history_bytes_ -= history_.front().bytes;
    history_.pop_front();
  }
}

absl::Status RedisJournal::Reconcile() {
  const RedisCommand get[] = {{"HGET", keys_.journals(), id_}, {"GET", keys_.format()}};
  absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(get);
  if (!replies.ok()) return replies.status();
  const std::string stored(Text(*replies->front()));
  if (stored == latest_) return absl::OkStatus();
  for (Entry& doubt : doubts_) {
    if (doubt.after != stored) continue;
    // Those who asked for it were told to ask again. What it did is told by ReadChanges like what others do.
    Remember(std::move(doubt));
    doubts_.clear();
    return absl::OkStatus();
  }
  doubts_.clear();
  if ((*replies)[1]->type == REDIS_REPLY_NIL) {
    broken_ = absl::FailedPreconditionError(
        "state store: Redis has lost all of it; bring its data back and restart normd, whose layers are still here to "
        "be read");
    warn_(std::string(broken_.message()));
    return broken_;
  }
  for (std::size_t i = history_.size(); i-- > 0;) {
    if (history_[i].before == stored) return SendAgain(i, stored);
  }
  warn_(absl::StrCat(
      "state store: Redis has an older copy of it than this server remembers the changes since: it goes on "
      "with what Redis has, and changes before the latest ",
      history_.size(), " of this server may be lost"));
  // None of them finds its place.
  return SendAgain(0, stored);
}

absl::Status RedisJournal::SendAgain(std::size_t first, std::string at) {
  progress_.compare_all = true;
  const absl::Time deadline = absl::Now() + location_.command_timeout;
  std::deque<Entry> missing;
  while (history_.size() > first) {
    history_bytes_ -= history_.back().bytes;
    missing.push_front(std::move(history_.back()));
    history_.pop_back();
  }
  latest_ = at;
  while (!missing.empty()) {
    absl::Status why;
    const Outcome outcome = SendAgain(&missing.front(), latest_, deadline, &why);
    if (outcome == Outcome::kStored) {
      Remember(std::move(missing.front()));
    } else if (outcome != Outcome::kRefused || !IsConflict(why)) {
      // The next Reconcile goes on here.
      for (Entry& entry : missing) Remember(std::move(entry));
      return outcome == Outcome::kOutOfStep
                 ? absl::UnavailableError("state store: Redis changed its master in the meantime")
                 : why;
    }
    missing.pop_front();
    // Those that follow build on what is stored now.
    if (!missing.empty()) missing.front().before = latest_;
  }
  return absl::OkStatus();
}

RedisJournal::Outcome RedisJournal::SendAgain(Entry* entry, const std::string& at, absl::Time deadline,
                                              absl::Status* why) {
  const bool divisible = absl::c_all_of(entry->updates, [](const Update& update) { return update.stands_alone; });
  std::vector<std::string> lost;
  while (true) {
    absl::StatusOr<RedisChange> change = Build(entry->updates, lost);
    if (!change.ok()) {
      *why = change.status();
      if (IsConflict(*why)) WarnOfLoss(*entry, ConflictUids(*why));
      return Outcome::kRefused;
    }
    const Outcome outcome = Execute(at, entry->after, *change, why);
    if (outcome == Outcome::kStored) change->UpdateNames(&names_);
    if (outcome != Outcome::kRefused || !IsConflict(*why)) return outcome;
    // What this one builds on may be another server's, which is sending that again, too.
    if (absl::Now() < deadline) {
      absl::SleepFor(kPauseForOthers);
      continue;
    }
    const std::vector<std::string> uids = ConflictUids(*why);
    WarnOfLoss(*entry, uids);
    if (!divisible) return Outcome::kRefused;
    lost.insert(lost.end(), uids.begin(), uids.end());
    if (absl::c_all_of(entry->updates,
                       [&](const Update& update) { return absl::c_linear_search(lost, UidOf(update)); })) {
      return Outcome::kRefused;
    }
  }
}

void RedisJournal::WarnOfLoss(const Entry& entry, const std::vector<std::string>& uids) const {
  std::string lost;
  for (const Update& update : entry.updates) {
    if (update.put == nullptr || !absl::c_linear_search(uids, update.put->uid)) continue;
    absl::StrAppend(&lost, lost.empty() ? "" : ", ", "'", update.put->name, "' version ", update.put->version);
  }
  warn_(
      absl::StrCat("state store: a failover of Redis has forgotten a change, and another server has changed the same "
                   "since, so it is lost: ",
                   lost.empty() ? "a change of more than one layer, or of requests alone" : lost));
}

}  // namespace normd::store
