#include "server/store/sqlite/snapshot_tables.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/store/record_format.h"

namespace normd::store {

absl::Status SnapshotTables::Prepare(Database* database) {
  return database->PrepareAll({
      {&put_, "INSERT INTO snapshots (name, bytes) VALUES (?, ?)"},
      {&put_layer_, "INSERT INTO snapshot_layers (snapshot, name, bytes) VALUES (?, ?, ?)"},
      {&remove_, "DELETE FROM snapshots WHERE name = ?"},
      {&remove_layers_, "DELETE FROM snapshot_layers WHERE snapshot = ?"},
      {&list_, "SELECT bytes FROM snapshots ORDER BY name"},
      {&find_, "SELECT bytes FROM snapshots WHERE name = ?"},
      {&read_, "SELECT bytes FROM snapshot_layers WHERE snapshot = ? ORDER BY name"},
  });
}

absl::Status SnapshotTables::Put(const NamedSnapshot& snapshot) {
  const SnapshotInfo& info = snapshot.info;
  const std::string record = EncodeInfo(info);
  absl::Status status = put_.BindText(0, info.name).BindBlob(1, record).Run();
  for (const StateStore::SnapshotPtr& layer : snapshot.layers) {
    if (!status.ok()) return status;
    const std::string bytes = EncodeLayer(*layer);
    status = put_layer_.BindText(0, info.name).BindText(1, layer->name).BindBlob(2, bytes).Run();
  }
  return status;
}

absl::Status SnapshotTables::Remove(const std::string& name) {
  if (absl::Status status = remove_.BindText(0, name).Run(); !status.ok()) return status;
  return remove_layers_.BindText(0, name).Run();
}

absl::StatusOr<std::vector<SnapshotInfo>> SnapshotTables::List() {
  std::vector<SnapshotInfo> infos;
  while (true) {
    absl::StatusOr<bool> row = list_.Step();
    absl::StatusOr<SnapshotInfo> info = SnapshotInfo();
    if (row.ok() && *row) info = DecodeInfo(list_.Bytes(0));
    if (!row.ok() || !*row || !info.ok()) list_.Reset();
    if (!row.ok()) return row.status();
    if (!info.ok()) return info.status();
    if (!*row) return infos;
    infos.push_back(*std::move(info));
  }
}

absl::Status SnapshotTables::Read(const std::string& name,
                                  absl::FunctionRef<absl::Status(StateStore::SnapshotPtr)> layer) {
  absl::StatusOr<bool> found = find_.BindText(0, name).Step();
  absl::StatusOr<SnapshotInfo> info = SnapshotInfo();
  if (found.ok() && *found) info = DecodeInfo(find_.Bytes(0));
  find_.Reset();
  if (!found.ok()) return found.status();
  if (!info.ok()) return info.status();
  if (!*found) return absl::NotFoundError(absl::StrCat("snapshot '", name, "' does not exist"));
  read_.BindText(0, name);
  absl::Status status;
  int64_t count = 0;
  while (status.ok()) {
    absl::StatusOr<bool> row = read_.Step();
    status = row.status();
    if (!status.ok() || !*row) break;
    absl::StatusOr<StateStore::SnapshotPtr> decoded = DecodeLayer(read_.Bytes(0));
    status = decoded.status();
    if (status.ok()) status = layer(*std::move(decoded));
    ++count;
  }
  read_.Reset();
  if (status.ok() && count != info->num_layers) {
    return absl::DataLossError(
        absl::StrCat("snapshot '", name, "' has ", count, " of its ", info->num_layers, " layers"));
  }
  return status;
}

}  // namespace normd::store
