#include "server/store/redis/redis_store.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "server/store/record_format.h"
#include "server/store/redis/redis_records.h"
#include "server/store/redis/redis_scripts.h"

namespace normd::store {
namespace {

// Of a page of layers, of requests, or of a snapshot.
constexpr int64_t kPage = 100;
constexpr int64_t kRequestPage = 1000;

}  // namespace

absl::StatusOr<std::unique_ptr<RedisStore>> RedisStore::Open(const RedisLocation& location, Warn warn) {
  std::unique_ptr<RedisStore> store(new RedisStore(location, std::move(warn)));
  absl::StatusOr<RedisMembership> member = RedisMembership::Join(location, &store->client_);
  if (!member.ok()) return member.status();
  store->member_ = *std::move(member);
  if (absl::Status status = store->journal_.Start(store->member_); !status.ok()) return status;
  return store;
}

RedisStore::~RedisStore() {
  if (!member_.id().empty()) member_.Leave(location_, &client_);
}

absl::Status RedisStore::Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                              absl::FunctionRef<absl::Status(RequestRecord)> request) {
  // First: what is written meanwhile is told by ReadChanges, whether it is read here or not.
  const RedisCommand get[] = {{"GET", keys_.changes()}};
  absl::StatusOr<std::vector<RedisReply>> changes = client_.RunChecked(get);
  if (!changes.ok()) return changes.status();
  if (!absl::SimpleAtoi(Text(*changes->front()), &progress_.number)) progress_.number = 0;
  progress_.connections = client_.connections();
  std::vector<std::string> uids;
  std::string after = "-";
  while (true) {
    const RedisCommand range[] = {{"ZRANGEBYLEX", keys_.index(), after, "+", "LIMIT", "0", absl::StrCat(kPage)}};
    absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(range);
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
  absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(commands);
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
    absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(commands);
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
    absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(scan);
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
  absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(get);
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
  absl::StatusOr<std::vector<RedisReply>> found = client_.RunChecked(get);
  if (!found.ok()) return found.status();
  if (found->front()->type == REDIS_REPLY_NIL) {
    return absl::NotFoundError(absl::StrCat("snapshot '", name, "' does not exist"));
  }
  absl::StatusOr<SnapshotInfo> info = DecodeInfo(Text(*found->front()));
  if (!info.ok()) return Damaged(info.status().message());
  for (int64_t i = 0; i < info->num_layers; i += kPage) {
    RedisCommand page = {"HMGET", keys_.snapshot(name)};
    for (int64_t j = i; j < std::min(i + kPage, info->num_layers); ++j) page.push_back(absl::StrCat(j));
    absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked({page});
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

absl::StatusOr<SharedStore::Changes> RedisStore::ReadChanges() {
  if (!journal_.broken().ok()) return journal_.broken();
  const std::vector<std::string> keys = {keys_.changes(), keys_.changed(), keys_.journals(), keys_.servers()};
  const std::vector<std::string> arguments = {absl::StrCat(progress_.number), member_.id(), keys_.layers(),
                                              keys_.all_requests(), member_.SignOfLife(location_)};
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
  if (number < progress_.number || connections != progress_.connections) progress_.compare_all = true;
  if (Text(*answer[1]) != journal_.latest() || progress_.compare_all) {
    if (absl::Status status = journal_.Reconcile(); !status.ok()) return status;
  }
  Changes changes;
  if (progress_.compare_all) {
    if (absl::Status status = CompareAll(&changes); !status.ok()) return status;
    progress_.compare_all = false;
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
  progress_.number = number;
  progress_.connections = connections;
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
    absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(commands);
    if (!replies.ok()) return replies.status();
    for (std::size_t i = 0; i < uids.size(); ++i) {
      const absl::Span<redisReply* const> last = Elements(*(*replies)[2 * i + 1]);
      absl::StatusOr<Changed> changed =
          ReadChanged(uids[i], *(*replies)[2 * i], last.size() == 2 ? *last[1] : *(*replies)[2 * i + 1]);
      if (!changed.ok()) return changed.status();
      changes->layers.push_back(*std::move(changed));
    }
    const RedisCommand range[] = {{"ZRANGEBYLEX", keys_.index(), after, "+", "LIMIT", "0", absl::StrCat(kRequestPage)}};
    absl::StatusOr<std::vector<RedisReply>> page = client_.RunChecked(range);
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
  if (!status.ok()) progress_.compare_all = true;
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
    absl::StatusOr<std::vector<RedisReply>> replies = client_.RunChecked(commands);
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
