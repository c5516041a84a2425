#ifndef NORMD_SERVER_STORE_RECORD_FORMAT_H_
#define NORMD_SERVER_STORE_RECORD_FORMAT_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/layer/layer_state.h"
#include "server/store/state_store.h"

// What is stored, as bytes in a column of SQLite or a field of Redis. Little-endian: numbers of 8 bytes, lists and
// texts behind their length, and at the end a checksum of all of it. Another form is a new schema version
// (sqlite_store.cc, redis_store.cc).
namespace normd::store {

// Finds every change within one word of 8 bytes, and all but one in 2^64 others. Not for what somebody forges.
uint64_t Checksum(absl::string_view bytes);

// The parts of a layer by what changes them. Settings: also its names and times.
std::string EncodeSettings(const layer::LayerSnapshot& snapshot);
// Statistics, version and content hash.
std::string EncodeVersion(const layer::LayerSnapshot& snapshot);
// Gamma, beta and the optimizer's state.
std::string EncodeParameters(const layer::LayerSnapshot& snapshot);
// Whether the record of one version of a layer holds for the other, too: both share what it is made of.
bool ShareSettings(const layer::LayerSnapshot& a, const layer::LayerSnapshot& b);
bool ShareParameters(const layer::LayerSnapshot& a, const layer::LayerSnapshot& b);
// All of that, and the contributors.
std::string EncodeLayer(const layer::LayerSnapshot& snapshot);
// All but the layer, by which it stands.
std::string EncodeRequest(const RequestRecord& record);
std::string EncodeGone(const GoneLayer& gone);
std::string EncodeInfo(const SnapshotInfo& info);
// Of a contributor, whose parts stand by themselves.
int64_t ContributorChecksum(absl::string_view name, int64_t sequence);

// DATA_LOSS: the bytes are no such record, or damaged.
absl::Status DecodeSettings(absl::string_view bytes, layer::LayerSnapshot* snapshot);
absl::Status DecodeVersion(absl::string_view bytes, layer::LayerSnapshot* snapshot);
absl::Status DecodeParameters(absl::string_view bytes, layer::LayerSnapshot* snapshot);
absl::StatusOr<std::shared_ptr<const layer::LayerSnapshot>> DecodeLayer(absl::string_view bytes);
absl::StatusOr<RequestRecord> DecodeRequest(absl::string_view bytes);
absl::StatusOr<GoneLayer> DecodeGone(absl::string_view bytes);
absl::StatusOr<SnapshotInfo> DecodeInfo(absl::string_view bytes);

// DATA_LOSS: the parts of the layer do not go together, or its content hash is not that of its state.
absl::Status CheckLayer(const layer::LayerSnapshot& snapshot);

}  // namespace normd::store

#endif  // NORMD_SERVER_STORE_RECORD_FORMAT_H_
