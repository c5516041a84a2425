#include "server/store/memory_store.h"

#include "absl/strings/str_cat.h"

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
    if (update.put != nullptr) {
      layers_[update.put->uid] = update.put;
      gone_.erase(update.put->uid);
    }
    if (update.remove.has_value()) {
      layers_.erase(update.remove->uid);
      gone_[update.remove->uid] = *update.remove;
    }
    if (!update.forget.empty()) {
      gone_.erase(update.forget);
      requests_.erase(update.forget);
    }
    if (update.put_snapshot != nullptr) snapshots_[update.put_snapshot->info.name] = update.put_snapshot;
    if (!update.remove_snapshot.empty()) snapshots_.erase(update.remove_snapshot);
    if (!update.request.has_value()) continue;
    std::map<int64_t, RequestRecord>& records = requests_[update.request->layer_uid];
    records.erase(records.begin(), records.upper_bound(update.forget_through));
    records.emplace(update.request->sequence, *update.request);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GoneLayer>> MemoryStore::ListGone() {
  std::vector<GoneLayer> gone;
  for (const auto& [uid, layer] : gone_) gone.push_back(layer);
  return gone;
}

absl::StatusOr<std::vector<SnapshotInfo>> MemoryStore::ListSnapshots() {
  std::vector<SnapshotInfo> infos;
  for (const auto& [name, snapshot] : snapshots_) infos.push_back(snapshot->info);
  return infos;
}

absl::Status MemoryStore::ReadSnapshot(const std::string& name, absl::FunctionRef<absl::Status(SnapshotPtr)> layer) {
  const auto found = snapshots_.find(name);
  if (found == snapshots_.end()) return absl::NotFoundError(absl::StrCat("snapshot '", name, "' does not exist"));
  for (const SnapshotPtr& one : found->second->layers) {
    if (absl::Status status = layer(one); !status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace normd::store
