#include "server/store/redis/redis_store.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "server/base/uid.h"
#include "server/layer/layer_error.h"
#include "server/store/record_format.h"
#include "server/store/redis/redis_scripts.h"

namespace normd::store {
namespace {

// A script holds Redis up while it runs, and Redis takes no command of more than some hundred megabytes.
constexpr std::size_t kMostBytes = 256 << 20;
// What a replica that becomes the master may be behind.
constexpr std::size_t kHistoryBytes = 64 << 20;
constexpr std::size_t kHistorySize = 100'000;
// Of a page of layers, of requests, or of a snapshot.
constexpr int64_t kPage = 100;
constexpr int64_t kRequestPage = 1000;
// A change that finds the store out of step is tried again so often.
constexpr int kRounds = 5;
// Until a change that was forgotten is sent again, if what it builds on is not there yet.
constexpr absl::Duration kPauseForOthers = absl::Milliseconds(20);

absl::Status Damaged(absl::string_view what) { return absl::DataLossError(absl::StrCat("state store: ", what)); }

absl::StatusOr<layer::Contributors> ReadContributors(absl::Span<redisReply* const> fields) {
  std::map<std::string, int64_t> sorted;
  for (std::size_t i = 0; i + 1 < fields.size(); i += 2) {
    const absl::string_view name = Text(*fields[i]);
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(Text(*fields[i + 1]), ':');
    int64_t sequence = 0;
    if (!absl::SimpleAtoi(parts.first, &sequence) || ContributorField(name, sequence) != Text(*fields[i + 1])) {
      return absl::DataLossError("the stored record of a contributor is damaged");
    }
    sorted[std::string(name)] = sequence;
  }
  return layer::Contributors::FromSorted({sorted.begin(), sorted.end()});
}

// Of the fields settings, statistics, parameters and v.
absl::StatusOr<StateStore::SnapshotPtr> ReadLayer(const std::string& uid, absl::Span<redisReply* const> fields,
                                                  absl::Span<redisReply* const> contributors) {
  auto snapshot = std::make_shared<layer::LayerSnapshot>();
  absl::Status status = DecodeSettings(Text(*fields[0]), snapshot.get());
  if (status.ok()) status = DecodeVersion(Text(*fields[1]), snapshot.get());
  if (status.ok()) status = DecodeParameters(Text(*fields[2]), snapshot.get());
  if (status.ok() && (snapshot->uid != uid || VersionField(*snapshot) != Text(*fields[3]))) {
    status = absl::DataLossError("its parts are not of one layer and version");
  }
  if (!status.ok()) return Damaged(absl::StrCat("layer with uid ", uid, ": ", status.message()));
  absl::StatusOr<layer::Contributors> read = ReadContributors(contributors);
  if (!read.ok()) return layer::ForLayer(snapshot->name, read.status());
  snapshot->contributors = std::make_shared<layer::Contributors>(*std::move(read));
  status = CheckLayer(*snapshot);
  if (!status.ok()) return status;
  return snapshot;
}

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

// `version`: VERSION:CONTENT_HASH or nothing. `last`: a number or nothing.
absl::StatusOr<SharedStore::Changed> ReadChanged(std::string uid, const redisReply& version, const redisReply& last) {
  SharedStore::Changed changed{.uid = std::move(uid), .version = 0, .content_hash = {}, .last_sequence = 0};
  const std::pair<absl::string_view, std::string> parts = absl::StrSplit(Text(version), absl::MaxSplits(':', 1));
  const bool there = version.type == REDIS_REPLY_STRING && parts.first != "-";
  if (there && !absl::SimpleAtoi(parts.first, &changed.version)) {
    return Damaged(absl::StrCat("layer with uid ", changed.uid, ": its version is '", Text(version), "'"));
  }
  if (there) changed.content_hash = parts.second;
  if (last.type == REDIS_REPLY_STRING && !absl::SimpleAtoi(Text(last), &changed.last_sequence)) {
    return Damaged(absl::StrCat("layer with uid ", changed.uid, ": a request has the number '", Text(last), "'"));
  }
  return changed;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RedisStore>> RedisStore::Open(const RedisLocation& location, Warn warn) {
  std::unique_ptr<RedisStore> store(new RedisStore(location, std::move(warn)));
  absl::StatusOr<RedisMembership> member = RedisMembership::Join(location, &store->client_);
  if (!member.ok()) return member.status();
  store->member_ = *std::move(member);
  store->journal_ = store->member_.first_journal();
  if (absl::Status status = store->RemoveStaged(); !status.ok()) return status;
  return store;
}

RedisStore::~RedisStore() {
  if (!member_.id().empty()) member_.Leave(location_, &client_);
}

absl::StatusOr<std::vector<RedisReply>> RedisStore::Read(absl::Span<const RedisCommand> commands) {
  absl::StatusOr<std::vector<RedisReply>> replies = client_.Run(commands);
  if (!replies.ok()) return replies;
  for (const RedisReply& reply : *replies) {
    if (reply->type == REDIS_REPLY_ERROR) return ReplyStatus(*reply);
  }
  return replies;
}

absl::Status RedisStore::Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                              absl::FunctionRef<absl::Status(RequestRecord)> request) {
  // First: what is written meanwhile is told by ReadChanges, whether it is read here or not.
  const RedisCommand get[] = {{"GET", keys_.changes()}};
  absl::StatusOr<std::vector<RedisReply>> changes = Read(get);
  if (!changes.ok()) return changes.status();
  if (!absl::SimpleAtoi(Text(*changes->front()), &seen_)) seen_ = 0;
  connections_ = client_.connections();
  std::vector<std::string> uids;
  std::string after = "-";
  while (true) {
    const RedisCommand range[] = {{"ZRANGEBYLEX", keys_.index(), after, "+", "LIMIT", "0", absl::StrCat(kPage)}};
    absl::StatusOr<std::vector<RedisReply>> replies = Read(range);
    if (!replies.ok()) return replies.status();
    const absl::Span<redisReply* const> page = Elements(*replies->front());
    if (page.empty()) break;
    const std::size_t first = uids.size();
    for (const redisReply* uid : page) uids.emplace_back(Text(*uid));
    after = absl::StrCat("(", uids.back());
    if (absl::Status status = LoadLayers(absl::MakeConstSpan(uids).subspan(first), layer); !status.ok()) return status;
  }
  absl::StatusOr<std::vector<GoneLayer>> gone = ListGone();
  if (!gone.ok()) return gone.status();
  for (GoneLayer& one : *gone) {
    uids.push_back(std::move(one.uid));
  }
  // Those of no layer.
  uids.emplace_back();
  for (std::size_t i = 0; i < uids.size(); i += kPage) {
    absl::Status status = LoadRequests(absl::MakeConstSpan(uids).subspan(i, kPage), request);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status RedisStore::LoadLayers(absl::Span<const std::string> uids,
                                    absl::FunctionRef<absl::Status(SnapshotPtr)> layer) {
  std::vector<RedisCommand> commands;
  for (const std::string& uid : uids) {
    commands.push_back({"HMGET", keys_.layer(uid), "settings", "statistics", "parameters", "v"});
    commands.push_back({"HGETALL", keys_.contributors(uid)});
  }
  absl::StatusOr<std::vector<RedisReply>> replies = Read(commands);
  if (!replies.ok()) return replies.status();
  for (std::size_t i = 0; i < uids.size(); ++i) {
    const absl::Span<redisReply* const> fields = Elements(*(*replies)[2 * i]);
    // Another server may have removed it in the meantime.
    if (fields.size() == 4 && fields[3]->type == REDIS_REPLY_NIL) continue;
    absl::StatusOr<SnapshotPtr> snapshot = ReadLayer(uids[i], fields, Elements(*(*replies)[2 * i + 1]));
    if (!snapshot.ok()) return snapshot.status();
    names_[uids[i]] = (*snapshot)->name;
    if (absl::Status status = layer(*std::move(snapshot)); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status RedisStore::LoadRequests(absl::Span<const std::string> uids,
                                      absl::FunctionRef<absl::Status(RequestRecord)> request) {
  // Where each goes on.
  std::vector<std::pair<std::string, std::string>> open;
  for (const std::string& uid : uids) open.emplace_back(uid, "-inf");
  while (!open.empty()) {
    std::vector<RedisCommand> commands;
    for (const auto& [uid, from] : open) {
      commands.push_back(
          {"ZRANGEBYSCORE", keys_.requests(uid), from, "+inf", "WITHSCORES", "LIMIT", "0", absl::StrCat(kRequestPage)});
    }
    absl::StatusOr<std::vector<RedisReply>> replies = Read(commands);
    if (!replies.ok()) return replies.status();
    std::vector<std::pair<std::string, std::string>> more;
    for (std::size_t i = 0; i < open.size(); ++i) {
      const absl::Span<redisReply* const> page = Elements(*(*replies)[i]);
      for (std::size_t j = 0; j + 1 < page.size(); j += 2) {
        absl::StatusOr<RequestRecord> record = DecodeRequest(Text(*page[j]));
        if (!record.ok()) return Damaged(record.status().message());
        if (absl::StrCat(record->sequence) != Text(*page[j + 1])) {
          return Damaged(absl::StrCat("a request of the layer with uid ", open[i].first, " stands in the wrong place"));
        }
        record->layer_uid = open[i].first;
        if (j + 2 == page.size() && page.size() == 2 * kRequestPage) {
          more.emplace_back(open[i].first, absl::StrCat("(", record->sequence));
        }
        if (absl::Status status = request(*std::move(record)); !status.ok()) return status;
      }
    }
    open = std::move(more);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GoneLayer>> RedisStore::ListGone() {
  // A scan may name one twice.
  std::map<std::string, GoneLayer> gone;
  std::string cursor = "0";
  do {
    const RedisCommand scan[] = {{"HSCAN", keys_.gone(), cursor, "COUNT", absl::StrCat(kPage)}};
    absl::StatusOr<std::vector<RedisReply>> replies = Read(scan);
    if (!replies.ok()) return replies.status();
    const absl::Span<redisReply* const> answer = Elements(*replies->front());
    if (answer.size() != 2) return absl::InternalError("state store: Redis gave an unknown answer to HSCAN");
    cursor = std::string(Text(*answer[0]));
    const absl::Span<redisReply* const> fields = Elements(*answer[1]);
    for (std::size_t i = 0; i + 1 < fields.size(); i += 2) {
      absl::StatusOr<GoneLayer> layer = DecodeGone(Text(*fields[i + 1]));
      if (!layer.ok()) return Damaged(layer.status().message());
      gone.insert_or_assign(layer->uid, *std::move(layer));
    }
  } while (cursor != "0");
  std::vector<GoneLayer> result;
  for (auto& [uid, layer] : gone) result.push_back(std::move(layer));
  return result;
}

absl::StatusOr<std::vector<SnapshotInfo>> RedisStore::ListSnapshots() {
  const RedisCommand get[] = {{"HGETALL", keys_.snapshots()}};
  absl::StatusOr<std::vector<RedisReply>> replies = Read(get);
  if (!replies.ok()) return replies.status();
  const absl::Span<redisReply* const> fields = Elements(*replies->front());
  std::vector<SnapshotInfo> infos;
  for (std::size_t i = 0; i + 1 < fields.size(); i += 2) {
    absl::StatusOr<SnapshotInfo> info = DecodeInfo(Text(*fields[i + 1]));
    if (!info.ok()) return Damaged(info.status().message());
    infos.push_back(*std::move(info));
  }
  std::sort(infos.begin(), infos.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return infos;
}

absl::Status RedisStore::ReadSnapshot(const std::string& name, absl::FunctionRef<absl::Status(SnapshotPtr)> layer) {
  const RedisCommand get[] = {{"HGET", keys_.snapshots(), name}};
  absl::StatusOr<std::vector<RedisReply>> found = Read(get);
  if (!found.ok()) return found.status();
  if (found->front()->type == REDIS_REPLY_NIL) {
    return absl::NotFoundError(absl::StrCat("snapshot '", name, "' does not exist"));
  }
  absl::StatusOr<SnapshotInfo> info = DecodeInfo(Text(*found->front()));
  if (!info.ok()) return Damaged(info.status().message());
  for (int64_t i = 0; i < info->num_layers; i += kPage) {
    RedisCommand page = {"HMGET", keys_.snapshot(name)};
    for (int64_t j = i; j < std::min(i + kPage, info->num_layers); ++j) page.push_back(absl::StrCat(j));
    absl::StatusOr<std::vector<RedisReply>> replies = Read({page});
    if (!replies.ok()) return replies.status();
    for (const redisReply* bytes : Elements(*replies->front())) {
      absl::StatusOr<SnapshotPtr> one = DecodeLayer(Text(*bytes));
      if (!one.ok()) return Damaged(absl::StrCat("snapshot '", name, "': ", one.status().message()));
      if (absl::Status status = layer(*std::move(one)); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BackupCopy>> RedisStore::StartBackup(const std::string& /*path*/) {
  return absl::FailedPreconditionError(
      "the server keeps its state in Redis: back that up (BGSAVE and its dump.rdb, or redis-cli --rdb FILE)");
}

absl::StatusOr<std::string> RedisStore::Stage(const NamedSnapshot& snapshot) {
  const std::string id = absl::StrCat(member_.id(), ":", base::NewUid());
  const std::string key = keys_.staged(id);
  std::vector<RedisCommand> commands = {{"SADD", keys_.staging(), id}};
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < snapshot.layers.size(); ++i) {
    commands.push_back({"HSET", key, absl::StrCat(i), EncodeLayer(*snapshot.layers[i])});
    bytes += commands.back().back().size();
    if (i + 1 < snapshot.layers.size() && bytes < (1 << 20)) continue;
    if (absl::Status status = Read(commands).status(); !status.ok()) return status;
    commands.clear();
    bytes = 0;
  }
  return snapshot.layers.empty() ? "" : id;
}

absl::Status RedisStore::RemoveStaged() {
  const RedisCommand get[] = {{"SMEMBERS", keys_.staging()}, {"HKEYS", keys_.journals()}};
  absl::StatusOr<std::vector<RedisReply>> replies = Read(get);
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
  return commands.empty() ? absl::OkStatus() : Read(commands).status();
}

absl::StatusOr<RedisChange> RedisStore::Build(absl::Span<const Update> updates, const std::vector<std::string>& but) {
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

absl::Status RedisStore::Write(absl::Span<const Update> updates) {
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
      if (journal_ == entry.after) {
        change->UpdateNames(&names_);
        return absl::OkStatus();
      }
    }
    entry.before = journal_;
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

RedisStore::Outcome RedisStore::Execute(const std::string& before, const std::string& after, const RedisChange& change,
                                        absl::Status* why) {
  std::vector<std::string> keys = {keys_.journals(), keys_.changes(), keys_.changed()};
  std::vector<std::string> arguments = {member_.id(), before, after};
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
      if (number == seen_ + 1 && connections_ == client_.connections()) seen_ = number;
      return Outcome::kStored;
    }
    if (absl::Now() >= deadline) {
      *why = absl::UnavailableError(absl::StrCat("state store: ", (*replies)[1]->integer,
                                                 " replicas have the change in time, want ", location_.wait_replicas));
      return Outcome::kUnknown;
    }
  }
}

void RedisStore::Remember(Entry entry) {
  journal_ = entry.after;
  history_bytes_ += entry.bytes;
  history_.push_back(std::move(entry));
  while (history_.size() > 1 && (history_bytes_ > kHistoryBytes || history_.size() > kHistorySize)) {
    history_bytes_ -= history_.front().bytes;
    history_.pop_front();
  }
}

absl::Status RedisStore::Reconcile() {
  const RedisCommand get[] = {{"HGET", keys_.journals(), member_.id()}, {"GET", keys_.format()}};
  absl::StatusOr<std::vector<RedisReply>> replies = Read(get);
  if (!replies.ok()) return replies.status();
  const std::string stored(Text(*replies->front()));
  if (stored == journal_) return absl::OkStatus();
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

absl::Status RedisStore::SendAgain(std::size_t first, std::string at) {
  compare_all_ = true;
  const absl::Time deadline = absl::Now() + location_.command_timeout;
  std::deque<Entry> missing;
  while (history_.size() > first) {
    history_bytes_ -= history_.back().bytes;
    missing.push_front(std::move(history_.back()));
    history_.pop_back();
  }
  journal_ = at;
  while (!missing.empty()) {
    absl::Status why;
    const Outcome outcome = SendAgain(&missing.front(), journal_, deadline, &why);
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
    if (!missing.empty()) missing.front().before = journal_;
  }
  return absl::OkStatus();
}

RedisStore::Outcome RedisStore::SendAgain(Entry* entry, const std::string& at, absl::Time deadline, absl::Status* why) {
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

void RedisStore::WarnOfLoss(const Entry& entry, const std::vector<std::string>& uids) const {
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

absl::StatusOr<SharedStore::Changes> RedisStore::ReadChanges() {
  if (!broken_.ok()) return broken_;
  const std::vector<std::string> keys = {keys_.changes(), keys_.changed(), keys_.journals(), keys_.servers()};
  const std::vector<std::string> arguments = {absl::StrCat(seen_), member_.id(), keys_.layers(), keys_.all_requests(),
                                              member_.SignOfLife(location_)};
  absl::StatusOr<std::vector<RedisReply>> replies = client_.Eval(kChangesScript, keys, arguments);
  if (!replies.ok()) return replies.status();
  if (replies->front()->type == REDIS_REPLY_ERROR) return ReplyStatus(*replies->front());
  const absl::Span<redisReply* const> answer = Elements(*replies->front());
  int64_t number = 0;
  if (answer.size() < 2 || answer.size() % 3 != 2 || !absl::SimpleAtoi(Text(*answer[0]), &number)) {
    return absl::InternalError("state store: Redis gave an unknown answer");
  }
  const int connections = client_.connections();
  // Redis may have forgotten some, and count anew.
  if (number < seen_ || connections != connections_) compare_all_ = true;
  if (Text(*answer[1]) != journal_ || compare_all_) {
    if (absl::Status status = Reconcile(); !status.ok()) return status;
  }
  Changes changes;
  if (compare_all_) {
    if (absl::Status status = CompareAll(&changes); !status.ok()) return status;
    compare_all_ = false;
  } else {
    for (std::size_t i = 2; i < answer.size(); i += 3) {
      if (Text(*answer[i]) == RedisKeys::kSnapshots) {
        changes.snapshots = true;
        continue;
      }
      absl::StatusOr<Changed> changed = ReadChanged(std::string(Text(*answer[i])), *answer[i + 1], *answer[i + 2]);
      if (!changed.ok()) return changed.status();
      changes.layers.push_back(*std::move(changed));
    }
  }
  seen_ = number;
  connections_ = connections;
  return changes;
}

absl::Status RedisStore::CompareAll(Changes* changes) {
  changes->all = true;
  changes->snapshots = true;
  std::string after = "-";
  // With the records that are no layer's.
  std::vector<std::string> uids = {""};
  while (!uids.empty()) {
    std::vector<RedisCommand> commands;
    for (const std::string& uid : uids) {
      commands.push_back({"HGET", keys_.layer(uid), "v"});
      commands.push_back({"ZREVRANGE", keys_.requests(uid), "0", "0", "WITHSCORES"});
    }
    absl::StatusOr<std::vector<RedisReply>> replies = Read(commands);
    if (!replies.ok()) return replies.status();
    for (std::size_t i = 0; i < uids.size(); ++i) {
      const absl::Span<redisReply* const> last = Elements(*(*replies)[2 * i + 1]);
      absl::StatusOr<Changed> changed =
          ReadChanged(uids[i], *(*replies)[2 * i], last.size() == 2 ? *last[1] : *(*replies)[2 * i + 1]);
      if (!changed.ok()) return changed.status();
      changes->layers.push_back(*std::move(changed));
    }
    const RedisCommand range[] = {{"ZRANGEBYLEX", keys_.index(), after, "+", "LIMIT", "0", absl::StrCat(kRequestPage)}};
    absl::StatusOr<std::vector<RedisReply>> page = Read(range);
    if (!page.ok()) return page.status();
    uids.clear();
    for (const redisReply* uid : Elements(*page->front())) uids.emplace_back(Text(*uid));
    if (!uids.empty()) after = absl::StrCat("(", uids.back());
  }
  return absl::OkStatus();
}

absl::Status RedisStore::ReadLayers(absl::Span<const Query> queries,
                                    absl::FunctionRef<void(const Query&, StoredLayer)> use) {
  absl::Status status = TryReadLayers(queries, use);
  // Whoever was told that they have changed has to be told again.
  if (!status.ok()) compare_all_ = true;
  return status;
}

absl::Status RedisStore::TryReadLayers(absl::Span<const Query> queries,
                                       absl::FunctionRef<void(const Query&, StoredLayer)> use) {
  constexpr std::size_t kParts = 4;
  for (std::size_t start = 0; start < queries.size(); start += kPage) {
    const absl::Span<const Query> page = queries.subspan(start, kPage);
    std::vector<RedisCommand> commands;
    for (const Query& query : page) {
      commands.push_back({"HMGET", keys_.layer(query.uid), "settings", "statistics", "parameters", "v"});
      commands.push_back({"HGETALL", keys_.contributors(query.uid)});
      commands.push_back({"HGET", keys_.gone(), query.uid});
      // With the known one, to see whether it is there.
      commands.push_back({"ZRANGEBYSCORE", keys_.requests(query.uid), absl::StrCat(query.known.sequence), "+inf"});
    }
    absl::StatusOr<std::vector<RedisReply>> replies = Read(commands);
    if (!replies.ok()) return replies.status();
    for (std::size_t i = 0; i < page.size(); ++i) {
      StoredLayer layer;
      const absl::Span<redisReply* const> fields = Elements(*(*replies)[kParts * i]);
      if (fields.size() == 4 && fields[3]->type != REDIS_REPLY_NIL) {
        absl::StatusOr<SnapshotPtr> snapshot = ReadLayer(page[i].uid, fields, Elements(*(*replies)[kParts * i + 1]));
        if (!snapshot.ok()) return snapshot.status();
        layer.snapshot = *std::move(snapshot);
        names_[page[i].uid] = layer.snapshot->name;
      } else {
        names_.erase(page[i].uid);
      }
      if ((*replies)[kParts * i + 2]->type == REDIS_REPLY_STRING) {
        absl::StatusOr<GoneLayer> gone = DecodeGone(Text(*(*replies)[kParts * i + 2]));
        if (!gone.ok()) return Damaged(gone.status().message());
        layer.gone = *std::move(gone);
      }
      absl::Status status = ReadRequests(page[i], (*replies)[kParts * i + 3].get(), &layer);
      if (!status.ok()) return status;
      use(page[i], std::move(layer));
    }
  }
  return absl::OkStatus();
}

absl::Status RedisStore::ReadRequests(const Query& query, redisReply* reply, StoredLayer* layer) {
  bool known = false;
  for (const redisReply* member : Elements(*reply)) {
    absl::StatusOr<RequestRecord> record = DecodeRequest(Text(*member));
    if (!record.ok()) return Damaged(record.status().message());
    record->layer_uid = query.uid;
    if (record->sequence == query.known.sequence && record->request_id == query.known.request_id) {
      known = true;
    } else {
      layer->requests.push_back(*std::move(record));
    }
  }
  layer->all_requests = query.known.sequence == 0;
  if (known || layer->all_requests) return absl::OkStatus();
  layer->requests.clear();
  layer->all_requests = true;
  return LoadRequests({query.uid}, [layer](RequestRecord record) {
    layer->requests.push_back(std::move(record));
    return absl::OkStatus();
  });
}

}  // namespace normd::store
