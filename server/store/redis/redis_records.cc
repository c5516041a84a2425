#include "server/store/redis/redis_records.h"

#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/layer/layer_error.h"
#include "server/store/record_format.h"
#include "server/store/redis/redis_change.h"

namespace normd::store {
namespace {

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

}  // namespace

absl::Status Damaged(absl::string_view what) { return absl::DataLossError(absl::StrCat("state store: ", what)); }

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

}  // namespace normd::store
