#include "server/store/sqlite/snapshot_tables.h"

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/store/sqlite/record_format.h"

namespace normd::store {

absl::Status SnapshotTables::Prepare(Database* database) {
  return database->PrepareAll({
      {&put_, "INSERT INTO snapshots (name, layer, prefix, num_layers, create_time) VALUES (?, ?, ?, ?, ?)"},
      {&put_layer_, "INSERT INTO snapshot_layers (snapshot, name, bytes) VALUES (?, ?, ?)"},
      {&remove_, "DELETE FROM snapshots WHERE name = ?"},
      {&remove_layers_, "DELETE FROM snapshot_layers WHERE snapshot = ?"},
      {&list_, "SELECT name, layer, prefix, num_layers, create_time FROM snapshots ORDER BY name"},
      {&find_, "SELECT num_layers FROM snapshots WHERE name = ?"},
      {&read_, "SELECT bytes FROM snapshot_layers WHERE snapshot = ? ORDER BY name"},
  });
}

absl::Status SnapshotTables::Put(const NamedSnapshot& snapshot) {
  const SnapshotInfo& info = snapshot.info;
  absl::Status status = put_.BindText(0, info.name)
                            .BindText(1, info.layer)
                            .BindText(2, info.prefix)
                            .Bind(3, info.num_layers)
                            .Bind(4, absl::ToUnixNanos(info.create_time))
                            .Run();
  for (const StateStore::SnapshotPtr& layer : snapshot.layers) {
    if (!status.ok()) return status;
    const std::string bytes = Encode(*layer);
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
    if (!row.ok() || !*row) list_.Reset();
    if (!row.ok()) return row.status();
    if (!*row) return infos;
    infos.push_back({.name = list_.Text(0),
                     .layer = list_.Text(1),
                     .prefix = list_.Text(2),
                     .num_layers = list_.Int(3),
                     .create_time = absl::FromUnixNanos(list_.Int(4))});
  }
}

absl::Status SnapshotTables::Read(const std::string& name,
                                  absl::FunctionRef<absl::Status(StateStore::SnapshotPtr)> layer) {
  absl::StatusOr<bool> found = find_.BindText(0, name).Step();
  const int64_t expected = found.ok() && *found ? find_.Int(0) : 0;
  find_.Reset();
  if (!found.ok()) return found.status();
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
  if (status.ok() && count != expected) {
    return absl::DataLossError(absl::StrCat("snapshot '", name, "' has ", count, " of its ", expected, " layers"));
  }
  return status;
}

}  // namespace normd::store
