#include "server/store/memory_store.h"

namespace normd::store {

absl::Status MemoryStore::Load(absl::FunctionRef<absl::Status(SnapshotPtr)> layer,
                               absl::FunctionRef<absl::Status(RequestRecord)> request) {
  for (const auto& [uid, snapshot] : layers_) {
    if (absl::Status status = layer(snapshot); !status.ok()) return status;
  }
  for (const auto& [uid, records] : requests_) {
    for (const auto& [sequence, record] : records) {
      if (absl::Status status = request(record); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status MemoryStore::Write(absl::Span<const Update> updates) {
  for (const Update& update : updates) {
    if (update.put != nullptr) layers_[update.put->uid] = update.put;
    if (!update.remove.empty()) {
      layers_.erase(update.remove);
      requests_.erase(update.remove);
    }
    if (!update.request.has_value()) continue;
    std::map<int64_t, RequestRecord>& records = requests_[update.request->layer_uid];
    records.erase(records.begin(), records.upper_bound(update.forget_through));
    records.emplace(update.request->sequence, *update.request);
  }
  return absl::OkStatus();
}

}  // namespace normd::store
