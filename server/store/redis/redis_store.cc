#include "server/store/redis/redis_store.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

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

}  // namespace

absl::StatusOr<std::unique_ptr<RedisStore>> RedisStore::Open(const RedisLocation& location) {
  absl::StatusOr<std::unique_ptr<RedisLease>> lease = RedisLease::Acquire(location);
  if (!lease.ok()) return lease.status();
  std::unique_ptr<RedisStore> store(new RedisStore(location, *std::move(lease)));
  const RedisCommand get[] = {{"GET", store->keys_.journal()}};
  absl::StatusOr<std::vector<RedisReply>> replies = store->Read(get);
  if (!replies.ok()) return replies.status();
  store->journal_ = std::string(Text(*replies->front()));
  if (absl::Status status = store->RemoveStaged(); !status.ok()) return status;
  return store;
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
  for (const std::string& uid : uids) presences_[uid] = LayerPresence::kPresent;
  absl::StatusOr<std::vector<GoneLayer>> gone = ListGone();
  if (!gone.ok()) return gone.status();
  for (GoneLayer& one : *gone) {
    presences_[one.uid] = LayerPresence::kGone;
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
    absl::StatusOr<SnapshotPtr> snapshot =
        ReadLayer(uids[i], Elements(*(*replies)[2 * i]), Elements(*(*replies)[2 * i + 1]));
    if (!snapshot.ok()) return snapshot.status();
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
  const std::string id = base::NewUid();
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
  const RedisCommand get[] = {{"SMEMBERS", keys_.staging()}};
  absl::StatusOr<std::vector<RedisReply>> replies = Read(get);
  if (!replies.ok()) return replies.status();
  std::vector<RedisCommand> commands;
  for (const redisReply* id : Elements(*replies->front())) {
    commands.push_back({"UNLINK", keys_.staged(Text(*id))});
  }
  if (commands.empty()) return absl::OkStatus();
  commands.push_back({"DEL", keys_.staging()});
  return Read(commands).status();
}

RedisStore::Entry RedisStore::NewEntry(const std::string& before, const RedisChange& change) const {
  Entry entry{.before = before, .after = base::NewUid(), .keys = {}, .arguments = {}, .bytes = change.bytes()};
  entry.keys = {keys_.owner(), keys_.journal()};
  entry.arguments = {lease_->token(), entry.before, entry.after};
  change.AppendTo(&entry.keys, &entry.arguments);
  return entry;
}

absl::Status RedisStore::Write(absl::Span<const Update> updates) {
  if (!broken_.ok()) return broken_;
  RedisChange change(keys_, &presences_);
  for (const Update& update : updates) {
    std::string staged;
    if (update.put_snapshot != nullptr) {
      absl::StatusOr<std::string> id = Stage(*update.put_snapshot);
      if (!id.ok()) return id.status();
      staged = *std::move(id);
    }
    if (absl::Status status = change.Add(update, staged); !status.ok()) return status;
  }
  if (change.bytes() > kMostBytes) {
    return absl::ResourceExhaustedError(absl::StrCat("state store: the change has ", change.bytes(),
                                                     " bytes, and Redis takes at most ", kMostBytes, " at once"));
  }
  bool in_step = doubts_.empty();
  for (int round = 0; round < kRounds; ++round) {
    if (!in_step) {
      absl::Status status = Reconcile();
      // An attempt at this very change may have been carried out.
      if (round > 0 && absl::IsUnavailable(status)) return OutcomeUnknownError(status.message());
      if (!status.ok()) return status;
    }
    Entry entry = NewEntry(journal_, change);
    absl::Status why;
    switch (Execute(entry, change.checks(), &why)) {
      case Outcome::kStored:
        Remember(std::move(entry));
        // What was sent before and has not come by now is refused when it comes.
        doubts_.clear();
        for (const auto& [uid, presence] : change.presences()) presences_[uid] = presence;
        return absl::OkStatus();
      case Outcome::kRefused:
        return why;
      case Outcome::kOutOfStep:
        // An attempt of which nothing was heard may still arrive.
        doubts_.push_back({std::move(entry), change.Undo()});
        in_step = false;
        break;
      case Outcome::kUnknown:
        doubts_.push_back({std::move(entry), change.Undo()});
        return OutcomeUnknownError(why.message());
    }
  }
  return absl::UnavailableError("state store: Redis changes its master all the time");
}

RedisStore::Outcome RedisStore::Execute(const Entry& entry, const std::vector<RedisChange::Check>& checks,
                                        absl::Status* why) {
  std::vector<RedisCommand> wait;
  if (location_.wait_replicas > 0) {
    wait.push_back({"WAIT", absl::StrCat(location_.wait_replicas),
                    absl::StrCat(absl::ToInt64Milliseconds(location_.wait_timeout))});
  }
  const absl::Time deadline = absl::Now() + location_.retry_time;
  while (true) {
    bool unknown = false;
    absl::StatusOr<std::vector<RedisReply>> replies =
        client_.Eval(kWriteScript, entry.keys, entry.arguments, wait, &unknown);
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
    if (kind == "owner" || kind == "journal") return Outcome::kOutOfStep;
    if (kind == "conflict" && answer.size() == 3) {
      std::size_t number = 0;
      const bool known = absl::SimpleAtoi(Text(*answer[1]), &number) && number >= 1 && number <= checks.size();
      const RedisChange::Check check = known ? checks[number - 1] : RedisChange::Check();
      *why =
          absl::AbortedError(absl::StrCat("state store: the layer with uid ", check.uid, " has version ",
                                          Text(*answer[2]), " (\"-\": none), and the change builds on ", check.want));
      return Outcome::kRefused;
    }
    if (kind != "ok") {
      *why = absl::InternalError("state store: Redis gave an unknown answer");
      return Outcome::kUnknown;
    }
    if (wait.empty() || (*replies)[1]->integer >= location_.wait_replicas) return Outcome::kStored;
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
  // Also where this server is the owner no more, or where a failover has forgotten that it is.
  if (absl::Status status = lease_->Renew(&client_); !status.ok()) {
    if (status.code() == absl::StatusCode::kFailedPrecondition) broken_ = status;
    return status;
  }
  const RedisCommand get[] = {{"GET", keys_.journal()}};
  absl::StatusOr<std::vector<RedisReply>> replies = Read(get);
  if (!replies.ok()) return replies.status();
  const std::string stored(Text(*replies->front()));
  if (stored == journal_) return absl::OkStatus();
  for (Doubt& doubt : doubts_) {
    if (doubt.entry.after == stored) return UndoDoubt(std::move(doubt));
  }
  for (std::size_t i = history_.size(); i-- > 0;) {
    if (history_[i].before == stored) return SendAgain(i);
  }
  broken_ = absl::FailedPreconditionError(
      "state store: what Redis has is not what this server wrote, or too old a copy of it; restart normd to go on with "
      "what Redis has");
  return broken_;
}

absl::Status RedisStore::UndoDoubt(Doubt doubt) {
  if (doubt.undo == nullptr) {
    broken_ = absl::FailedPreconditionError(
        "state store: a change that was answered with UNAVAILABLE, and that cannot be undone, is stored; restart "
        "normd");
    return broken_;
  }
  Entry undo = NewEntry(doubt.entry.after, *doubt.undo);
  absl::Status why;
  switch (Execute(undo, {}, &why)) {
    case Outcome::kStored:
      Remember(std::move(doubt.entry));
      Remember(std::move(undo));
      doubts_.clear();
      return absl::OkStatus();
    case Outcome::kOutOfStep:
      return absl::UnavailableError("state store: Redis changed its master in the meantime");
    case Outcome::kRefused:
      return why;
    case Outcome::kUnknown:
      // Either way what is stored is the change or nothing of it, and the next Reconcile sees which.
      Remember(std::move(doubt.entry));
      Remember(std::move(undo));
      doubts_.clear();
      return why;
  }
  return why;
}

absl::Status RedisStore::SendAgain(std::size_t first) {
  for (std::size_t i = first; i < history_.size(); ++i) {
    absl::Status why;
    const Outcome outcome = Execute(history_[i], {}, &why);
    if (outcome == Outcome::kOutOfStep) {
      return absl::UnavailableError("state store: Redis changed its master in the meantime");
    }
    if (why.code() == absl::StatusCode::kAborted) broken_ = why;
    if (outcome != Outcome::kStored) return why;
  }
  return absl::OkStatus();
}

}  // namespace normd::store
