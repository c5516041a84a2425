#ifndef NORMD_SERVER_STORE_REDIS_REDIS_RECORDS_H_
#define NORMD_SERVER_STORE_REDIS_REDIS_RECORDS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/store/redis/redis_connection.h"
#include "server/store/state_store.h"

// What Redis's replies say of layers. DATA_LOSS: it is not what a normd has written.
namespace normd::store {

absl::Status Damaged(absl::string_view what);

// Of the fields settings, statistics, parameters and v, and all fields of its contributors.
absl::StatusOr<StateStore::SnapshotPtr> ReadLayer(const std::string& uid, absl::Span<redisReply* const> fields,
                                                  absl::Span<redisReply* const> contributors);

// `version`: VERSION:CONTENT_HASH or nothing. `last`: a number or nothing.
absl::StatusOr<SharedStore::Changed> ReadChanged(std::string uid, const redisReply& version, const redisReply& last);

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_REDIS_REDIS_RECORDS_H_
